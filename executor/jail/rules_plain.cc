#include "executor/jail/rules.h"

namespace sluice::executor::jail {

std::vector<Rule> sanitizer_rules() { return {}; }

}  // namespace sluice::executor::jail
