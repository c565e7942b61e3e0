"""What tests found out in figures: tables that pytest prints at its end (see conftest.py)."""

TABLES: dict[str, dict[str, dict[str, str]]] = {}
"""Title -> row -> column -> value."""


def found(title: str, row: str, column: str, value: str) -> None:
    """Put a value into a table."""
    TABLES.setdefault(title, {}).setdefault(row, {})[column] = value


def lines(title: str) -> list[str]:
    """A table as text, columns in the order they came up."""
    rows = TABLES[title]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    widths = {column: 2 + max(len(column), *(len(row.get(column, "-")) for row in rows.values())) for column in columns}
    first = 2 + max(len(name) for name in rows)
    head = " " * first + "".join(column.ljust(widths[column]) for column in columns)
    body = [
        name.ljust(first) + "".join(row.get(column, "-").ljust(widths[column]) for column in columns)
        for name, row in rows.items()
    ]
    return [line.rstrip() for line in (head, *body)]
