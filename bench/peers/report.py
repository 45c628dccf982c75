"""Medians, tables and the aims, from the samples of a run.

A sample is a dict: round, case, broker, client, measure, and the figures of that measurement.
"""

import statistics

_TITLES = {"publish": "publish and confirm", "end-to-end": "end to end", "drain": "drain"}
_SHORT = {"sluice": "sluice", "sluice-2-shards": "2 shards", "rabbitmq-classic": "classic",
          "rabbitmq-quorum": "quorum", "jetstream": "jetstream"}
_PERCENTILES = ("p50", "p95", "p99", "p99.9")


class Medians:
    """The median over the rounds of any figure of a measurement."""

    def __init__(self, samples):
        self._groups = {}
        for sample in samples:
            key = (sample["measure"], sample["case"], sample["broker"], sample["client"] == "own")
            self._groups.setdefault(key, []).append(sample)

    def get(self, measure, case, broker, figure, own=False):
        """None where it was not measured. `figure` is a name, or two for one inside a figure."""
        values = []
        for sample in self._groups.get((measure, case, broker, own), []):
            value = sample
            for name in figure if isinstance(figure, tuple) else (figure,):
                value = value.get(name) if value is not None else None
            if value is not None:
                values.append(value)
        return statistics.median(values) if values else None

    def cases(self, measure):
        return list(dict.fromkeys(case for found, case, _, _ in self._groups if found == measure))

    def brokers(self, measure, own):
        found = {broker for of_measure, _, broker, of_own in self._groups
                 if of_measure == measure and of_own == own}
        return [broker for broker in _SHORT if broker in found]

    def as_list(self):
        """For the JSON file: medians of the plain numbers of each group."""
        result = []
        for (measure, case, broker, own), samples in self._groups.items():
            entry = {"measure": measure, "case": case, "broker": broker,
                     "client": samples[0]["client"]}
            for figure, value in samples[0].items():
                if figure == "round" or not isinstance(value, (int, float, dict)):
                    continue
                names = [(figure, inner) for inner in value] if isinstance(value, dict) else [figure]
                for name in names:
                    median = self.get(measure, case, broker, name, own)
                    if isinstance(name, tuple):
                        entry.setdefault(name[0], {})[name[1]] = median
                    else:
                        entry[name] = median
            result.append(entry)
        return result


def ratio(one, other):
    return one / other if one is not None and other else None


def aims(medians):
    """The aims at 256 B and window 1000: each with its limit and what was reached, None if unmeasured."""
    found = []

    def add(text, limit, at_least, figures):
        plain, own = figures
        reached = None
        if plain is not None:
            reached = plain >= limit if at_least else plain <= limit
        found.append({"aim": text, "limit": limit, "at_least": at_least, "figure": plain,
                      "own_client": own, "reached": reached})

    def against(measure, figure, other):
        """Sluice's figure by the other's, with the plain client and with our own."""
        result = []
        for own in (False, True):
            own_peer = own and other != "jetstream"
            result.append(ratio(medians.get(measure, "base", "sluice", figure, own),
                                medians.get(measure, "base", other, figure, own_peer)))
        return result

    classic = "rabbitmq-classic"
    add("publish and confirm, times RabbitMQ classic", 10, True, against("publish", "rate", classic))
    add("end to end, times RabbitMQ classic", 5, True, against("end-to-end", "rate", classic))
    add("drain, times RabbitMQ classic", 5, True, against("drain", "rate", classic))
    add("broker's CPU time a message end to end, of RabbitMQ classic's", 0.1, False,
        against("end-to-end", "broker_cpu_us", classic))
    for measure in ("publish", "end-to-end", "drain"):
        add(f"{_TITLES[measure]}, times JetStream", 1, True, against(measure, "rate", "jetstream"))
    for kind in ("delivery", "confirm"):
        add(f"p99 of the {kind} at equal load, of RabbitMQ classic's", 0.5, False,
            against("latency", (f"{kind}_us", "p99"), classic))
    add("a confirm at window 1, times an fdatasync", 1.5, False, [
        ratio(medians.get("publish", "window 1", "sluice", ("confirm_us", "p50"), own),
              medians.get("publish", "window 1", "sluice", "fdatasync_us", own))
        for own in (False, True)])
    return found


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def print_rows(rows):
    """Columns as wide as they need; the first one to the left."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                            zip(row[1:], widths[1:]))]
        print("  ".join(cells).rstrip())


def print_measure(medians, measure, figure, title, digits=0):
    """A table of one figure: a row for each case, a column for each broker and client."""
    plain = medians.brokers(measure, own=False)
    own = medians.brokers(measure, own=True)
    others = [broker for broker in plain if broker != "sluice"] if "sluice" in plain else []
    print(f"\n{title}")
    rows = [["", *(_SHORT[broker] for broker in plain), *(f"x {_SHORT[broker]}" for broker in others),
             *(f"own: {_SHORT[broker]}" for broker in own)]]
    for case in medians.cases(measure):
        values = {broker: medians.get(measure, case, broker, figure) for broker in plain}
        rows.append([
            case, *(number(values[broker], digits) for broker in plain),
            *(number(ratio(values["sluice"], values[broker]), 2) for broker in others),
            *(number(medians.get(measure, case, broker, figure, own=True), digits) for broker in own)])
    print_rows(rows)


def print_latencies(medians, rate):
    print(f"\nlatency in us at {rate:,.0f} messages a second, half of the slowest's end to end")
    rows = [["", "client", *(f"confirm {p}" for p in _PERCENTILES),
             *(f"delivery {p}" for p in _PERCENTILES)]]
    for own in (False, True):
        for broker in medians.brokers("latency", own):
            rows.append([_SHORT[broker], "own" if own else "plain"] + [
                number(medians.get("latency", "base", broker, (kind, p), own))
                for kind in ("confirm_us", "delivery_us") for p in _PERCENTILES])
    print_rows(rows)


def print_window_one(medians):
    print("\none message at a time, us")
    rows = [["", "client", "confirm p50", "p99", "fdatasync", "ratio"]]
    for own in (False, True):
        for broker in medians.brokers("publish", own):
            confirm = medians.get("publish", "window 1", broker, ("confirm_us", "p50"), own)
            if confirm is None:
                continue
            sync = medians.get("publish", "window 1", broker, "fdatasync_us", own)
            rows.append([_SHORT[broker], "own" if own else "plain", number(confirm),
                         number(medians.get("publish", "window 1", broker, ("confirm_us", "p99"), own)),
                         number(sync), number(ratio(confirm, sync), 2)])
    print_rows(rows)


def print_aims(found):
    print()
    rows = [["aim, at 256 B and window 1000", "limit", "figure", "reached", "own client"]]
    for aim in found:
        reached = {None: "not measured", True: "yes", False: "no"}[aim["reached"]]
        limit = f"{'>=' if aim['at_least'] else '<='} {aim['limit']:g}"
        rows.append([aim["aim"], limit, number(aim["figure"], 2), reached, number(aim["own_client"], 2)])
    print_rows(rows)


def print_rounds(samples):
    print("\nthe machine, over the measurements of each round: median (most)")
    rows = [["round", "load average", "% stolen", "% used by others"]]
    for round_number in dict.fromkeys(sample["round"] for sample in samples):
        of_round = [sample for sample in samples if sample["round"] == round_number]
        row = [str(round_number)]
        for figure in ("load_average", "steal_percent", "others_percent"):
            values = [sample[figure] for sample in of_round]
            row.append(f"{statistics.median(values):.1f} ({max(values):.1f})")
        rows.append(row)
    print_rows(rows)


def print_all(samples, rate):
    medians = Medians(samples)
    for measure, title in _TITLES.items():
        if medians.cases(measure):
            print_measure(medians, measure, "rate", f"{title}, messages a second")
            print_measure(medians, measure, "broker_cpu_us",
                          f"{title}, us of the broker's CPU time a message", digits=1)
    if "window 1" in medians.cases("publish"):
        print_window_one(medians)
    if medians.cases("latency"):
        print_latencies(medians, rate)
    print_rounds(samples)
    print_aims(aims(medians))
