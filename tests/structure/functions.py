"""functions.py MOST FILE...: no function of the formatted sources has more than MOST lines."""
import re
import sys

NOT_FUNCTIONS = re.compile(r"\s*(template.*struct|namespace|struct|class|enum|union|extern|if|for|while|switch|else|do|"
                           r"typedef|\}|//|#)\b|\s*[}#/*]")


def indent_of(lines, i):
    return len(lines[i]) - len(lines[i].lstrip())


def head_of(lines, i):
    """The first line of the function that ends its head in line i: its end has the same indent, which
    parameters and members' initializers have not."""
    def goes_on(k):
        return re.match(r"\s*:(?!:)", lines[k]) or lines[k - 1].endswith((",", "(", "&&", "||"))
    if re.match(r"\s*\[[^]]*\]\s*\(", lines[i]):  # a lambda among arguments ends where it begins
        return i
    while i > 0 and goes_on(i):
        i -= 1
    return i


def long_functions(path, most):
    lines = open(path, encoding="utf-8").read().split("\n")
    for i, line in enumerate(lines):
        if not line.endswith("{") or ")" not in line or NOT_FUNCTIONS.match(line):
            continue
        head = head_of(lines, i)
        if NOT_FUNCTIONS.match(lines[head]):  # a condition of several lines
            continue
        indent = indent_of(lines, head)
        for end in range(i + 1, len(lines)):
            if lines[end].startswith(" " * indent + "}"):
                if end - i + 1 > most:
                    yield f"{path}:{i + 1}: a function of {end - i + 1} lines; {most} are allowed"
                break


def main():
    most = int(sys.argv[1])
    found = [text for path in sys.argv[2:] for text in long_functions(path, most)]
    print("\n".join(found) or f"no function of more than {most} lines in {len(sys.argv) - 2} files")
    sys.exit(1 if found else 0)


main()
