"""Results as a notebook or a prompt shows them: a short table of what they say."""

import abc
from html import escape


class Display(abc.ABC):
    """What is shown as a table of two columns.

    >>> class Result(Display):
    ...     def facts(self):
    ...         return [("perplexity", "12.5"), ("tokens", "100")]
    >>> Result()
    Result
      perplexity  12.5
      tokens      100
    """

    @abc.abstractmethod
    def facts(self) -> list[tuple[str, str]]:
        """Returns what the table says: names and values."""

    def __repr__(self) -> str:
        """Returns the table as text."""
        facts = self.facts()
        width = max((len(name) for name, _ in facts), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:<{width}}  {value}" for name, value in facts)])

    def _repr_html_(self) -> str:
        """Returns the table as HTML, which notebooks show."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self.facts()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"
