"""Mean response size per status code of access logs, with a combine: (bytes, responses) pairs add up, means do not."""

input = "lines"


def map(filename, line):
    columns = line.split(b'" ')  # what follows the request: status and size
    if len(columns) > 1:
        status, _, size = columns[1].partition(b" ")
        size = size.split(b" ")[0]
        if size.isdigit():
            yield status.decode("latin-1"), [int(size), 1]


def combine(status, pairs):
    total = responses = 0
    for size, count in pairs:
        total += size
        responses += count
    return [total, responses]


def reduce(status, pairs):
    total, responses = combine(status, pairs)
    return total / responses
