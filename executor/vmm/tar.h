#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/error.h"

namespace sluice::vmm {

// One entry of an archive.
struct TarEntry {
  enum class Kind { kFile, kDirectory, kSymbolicLink, kHardLink };

  std::string path;  // as the archive has it
  std::string link;  // of links: where to
  Kind kind = Kind::kFile;
  uint32_t mode = 0;  // permission bits
  std::span<const uint8_t> data;
};

// Goes through an uncompressed tar archive: POSIX ustar and pax, and GNU's long names. Hostile
// input: sizes are checked before they are believed, nothing is unpacked here. Entries that are
// none of the above (devices, pipes) are passed over. `each` may refuse an entry, which ends it.
// Errors: kInvalid, saying where; those of `each`.
Expected<void> read_tar(std::span<const uint8_t> archive,
                        const std::function<Expected<void>(const TarEntry&)>& each);

}  // namespace sluice::vmm
