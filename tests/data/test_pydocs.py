import hashlib
import subprocess
import sys

import pytest

from cvfp_jax.data import pydocs
from cvfp_jax.errors import UserError

LONG = ("Words about this and that. " * 30).strip()


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return iter([("pkg", root)])


def test_order_is_that_of_the_names_hashes_and_tests_are_left_out(tmp_path):
    names = ["a.py", "b.py", "sub/c.py", "sub/tests/d.py", "__pycache__/e.py", "f.txt"]
    files = pydocs.module_files(tree(tmp_path, dict.fromkeys(names, "")))
    kept = [f"pkg/{name}" for name in names[:3]]
    assert [name for name, _ in files] == sorted(
        kept, key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    again = tmp_path / "elsewhere"
    assert [name for name, _ in pydocs.module_files(tree(again, dict.fromkeys(reversed(names), "")))] == [
        name for name, _ in files
    ]


def test_docstrings_come_in_the_order_of_the_source_each_once(tmp_path):
    source = f'''"""Module. {LONG}"""
class A:
    """Class."""
    def method(self):
        """Method
            indented.
        """
async def g():
    """Function."""
def h():
    "Class."
    x = """Not a docstring."""
'''
    files = pydocs.module_files(tree(tmp_path, {"a.py": source}))
    (sample,) = pydocs.iterate_samples(files)
    assert sample == f"Module. {LONG}\n\nClass.\n\nMethod\nindented.\n\nFunction."


def test_no_sample_repeats_what_an_earlier_one_said(tmp_path):
    same = f'def f():\n    """Copied. {LONG}"""\n'
    texts = {f"{name}.py": same + f'def g():\n    """{name} {LONG}"""\n' for name in "abcd"}
    samples = list(pydocs.iterate_samples(pydocs.module_files(tree(tmp_path, texts))))
    assert len(samples) == 4
    assert ["Copied." in sample for sample in samples] == [True, False, False, False]


def test_modules_with_little_to_say_or_broken_are_no_samples(tmp_path):
    texts = {
        "short.py": '"""Short."""',
        "broken.py": "def (:\n",
        "bytes.py": "x = 1\n",
        "good.py": f'"""{LONG}"""\nre = "\\d"  # an escape sequence that Python warns about\n',
    }
    samples = list(pydocs.iterate_samples(pydocs.module_files(tree(tmp_path, texts))))
    assert samples == [LONG]


def test_a_python_without_docstrings_gets_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(pydocs, "_roots", lambda: tree(tmp_path, {"a.py": "def f(): pass\n"}))
    with pytest.raises(UserError, match=r"no docstrings in 1 modules.*--corpus=text:PATH"):
        pydocs.read_samples(3)


def test_it_reads_this_python_without_importing_anything():
    script = (
        "import sys\n"
        "from cvfp_jax.data import pydocs\n"
        "names = [name.split('/')[0] for name, _ in pydocs.module_files(pydocs._roots())]\n"
        "wanted = {'email', 'jax', 'scipy'}\n"
        "print(len(wanted & set(sys.modules)), len(names), *sorted(set(names) & wanted))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    imported, modules, *found = out.split()
    assert int(imported) == 0
    assert int(modules) > 1000
    assert found == ["email", "jax", "scipy"]


def test_fewer_samples_are_the_first_of_more():
    few, more = pydocs.read_samples(3), pydocs.read_samples(6)
    assert len(more) == 6
    assert more[:3] == few
    assert all(len(sample) >= pydocs.MIN_CHARACTERS for sample in more)
