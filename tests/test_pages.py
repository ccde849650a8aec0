"""The runner of pages itself."""

import traceback
from pathlib import Path

import pytest
from pages import run_page

import optsearch

PAGE = """# A page

```python
from pathlib import Path

import optsearch

number = 1
```

Not run:

```
number = 2
```

```python
learned = optsearch.load("best.safetensors")
Path("made").touch()
if number > 1:
    raise ValueError("the other block ran")
```
"""


def test_blocks_of_a_page_are_one_program_run_in_its_folder(tmp_path: Path) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "folder"
    page.write_text(PAGE)
    folder.mkdir()
    variables = run_page(page, folder)
    assert variables["number"] == 1
    assert isinstance(variables["learned"], type(optsearch.load(folder / "best.safetensors")))
    assert (folder / "made").exists()


def test_an_error_is_at_its_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("number = 1", "number = 3"))
    with pytest.raises(ValueError, match="the other block") as caught:
        run_page(page, tmp_path)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.filename == str(page)
    assert page.read_text().splitlines()[last.lineno - 1].strip().startswith("raise")


def test_a_page_without_code_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Words\n")
    with pytest.raises(AssertionError, match="no ```python block"):
        run_page(tmp_path / "page.md", tmp_path)
