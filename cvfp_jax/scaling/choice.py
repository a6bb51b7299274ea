"""What of a table is asked for: conditions on rows, columns made of others, and how rows are taken."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.cells import NoNumberError, read_number
from cvfp_jax.scaling.rows import Row, shown

_CONDITION = re.compile(r"(.+?)\s*(>=|<=|!=|=|>|<)\s*(.*)", re.DOTALL)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """A column compared with a value: numbers as numbers, other values as text."""

    column: str
    sign: str  # =, !=, <, <=, > or >=
    value: str

    def holds(self, row: Row) -> bool:
        """Says whether it holds for a row; an order does not where there is no number."""
        found = row.value(self.column)
        number, wanted = as_number(found), as_number(self.value)
        both = number is not None and wanted is not None
        if self.sign in _ORDERS:
            return both and _ORDERS[self.sign](number, wanted)  # type: ignore[arg-type]
        same = number == wanted if both else _text(found) == self.value
        return same if self.sign == "=" else not same

    def __str__(self) -> str:
        """Returns it as it is written."""
        return f"{self.column}{self.sign}{self.value}"


def read_conditions(text: str, flag: str = "where") -> tuple[Condition, ...]:
    """Returns the conditions of a list, all of which must hold.

    Raises:
      UserError: an entry compares nothing.

    >>> [str(each) for each in read_conditions("arch=llama, params>1e8")]
    ['arch=llama', 'params>1e8']
    """
    found = []
    for part in text.split(","):
        match = _CONDITION.fullmatch(part.strip())
        if not match:
            raise UserError(
                f"--{flag}: {shown(part)} is no condition: write a column, one of = != < <= > >=, and a"
                f' value, such as --{flag}="arch=llama,params>1e8".'
            )
        found.append(Condition(match[1].strip(), match[2], match[3].strip().strip("'\"")))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Derived:
    """A column that is a product of others: each factor a column or a number, with its power of 1 or -1."""

    name: str
    text: str

    def factors(self, columns: Sequence[str]) -> list[tuple[str | float, int]]:
        """Returns the factors; names of columns may hold blanks and strokes themselves.

        Raises:
          UserError: a factor is neither a column nor a number.

        >>> Derived("D", "FLOP/6/Model Size").factors(["FLOP", "Model Size"])
        [('FLOP', 1), (6.0, -1), ('Model Size', -1)]
        """
        factors: list[tuple[str | float, int]] = []
        rest, power = self.text.strip(), 1
        while True:
            column = max((name for name in columns if name and rest.startswith(name)), key=len, default="")
            after = rest[len(column) :].lstrip()
            if not column or (after and after[0] not in "*/"):
                part = re.split(r"[*/]", rest, maxsplit=1)[0].strip()
                number = as_number(part)
                if number is None or number <= 0:
                    raise UserError(
                        f"--derive={self.name}={self.text}: {shown(part)} is neither a column nor a number"
                        f" above zero; the columns are {', '.join(filter(None, columns))}."
                    )
                factors.append((number, power))
                after = rest[len(re.split(r"[*/]", rest, maxsplit=1)[0]) :].lstrip()
            else:
                factors.append((column, power))
            if not after:
                return factors
            power, rest = (1 if after[0] == "*" else -1), after[1:].lstrip()


def read_derived(text: str) -> tuple[Derived, ...]:
    """Returns the columns that a list such as ``tokens=samples*512,D=FLOP/6/N`` makes.

    Raises:
      UserError: an entry names or makes nothing.
    """
    found = []
    for part in text.split(","):
        name, equals, expression = part.partition("=")
        if not (name.strip() and equals and expression.strip()):
            raise UserError(
                f"--derive: {shown(part)} makes no column: write a name, = and columns and numbers with * and"
                ' / between, such as --derive="D=FLOP/6/params".'
            )
        found.append(Derived(name.strip(), expression))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the rows of a table become points; by default all that have numbers do."""

    sigma: str | None = None  # the column of errors of y, in its unit
    where: tuple[Condition, ...] = ()  # rows that are taken
    holdout: tuple[Condition, ...] = ()  # rows of those that test the laws and are not fitted
    derive: tuple[Derived, ...] = ()
    best: bool = False  # whether the least y of each size stands for all of them
    min_x: float = 0.0  # of the first variable
    max_x: float = math.inf
    strict: bool = False  # whether any row that is no point is a mistake


def as_number(value: Any) -> float | None:
    """Returns a value's number, if it has one.

    >>> as_number("70M"), as_number(True), as_number("llama")
    (70000000.0, None, None)
    """
    if isinstance(value, str):
        try:
            return read_number(value)
        except NoNumberError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
