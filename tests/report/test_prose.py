"""A rule's page as HTML: a few marks have a meaning, everything else is text."""

import pytest

from cleanpath.report.prose import prose
from tests.report.audit_example import HOSTILE
from tests.report.reading import Reader


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("One line\nand its rest.", "<p>One line and its rest.</p>"),
        ("One.\n\nTwo.", "<p>One.</p><p>Two.</p>"),
        ("Use `h` & `f`.", "<p>Use <code>h</code> &amp; <code>f</code>.</p>"),
        ("A lone ` stays.", "<p>A lone ` stays.</p>"),
        ("Of two:\n- one\n  goes on\n- two", "<p>Of two:</p><ul><li>one goes on</li><li>two</li></ul>"),
        ("    x = 1\n\n    y = 2\n\nEnd.", "<pre><code>x = 1\n\ny = 2</code></pre><p>End.</p>"),
        ("Say\n```python\nx < 1\n  y\n```\nthen.", "<p>Say</p><pre><code>x &lt; 1\n  y</code></pre><p>then.</p>"),
        ("", ""),
    ],
)
def test_marks(text: str, html: str) -> None:
    assert prose(text) == html


@pytest.mark.parametrize("around", ["{}", "- {}", "    {}", "`{}`", "```\n{}\n```"])
def test_everything_else_is_text(around: str) -> None:
    reader = Reader(str(prose(around.replace("{}", HOSTILE))))
    assert {element.tag for element in reader.every} <= {"p", "ul", "li", "code", "pre"}
    assert " ".join(HOSTILE.split()) in reader.root.text
