"""Reads the reports of data checks."""


def found(report):
    """The faults by description: whether the fault is an error, its count, and its places in one text."""
    return {what: (fault.is_error, fault.count, "; ".join(fault.places)) for what, fault in report.faults.items()}


def expect(report, is_error, what, count, *places):
    """Asserts that the report has one fault with these words, this count and these places."""
    (fault,) = (fault for name, fault in found(report).items() if what in name)
    assert fault[:2] == (is_error, count)
    for place in places:
        assert place in fault[2]
