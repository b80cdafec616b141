"""report.html of stored content: nothing in it acts, nothing is asked for, much of it is left out in words."""

from dataclasses import replace

import needs_datasets  # noqa: F401
import pytest
from pages import HOSTILE, Read, content, items, report, scored

from clm_kernels.finetune.artifacts import PAGE, RUN
from clm_kernels.finetune.outputs import RESULTS, clear
from clm_kernels.finetune.page.writing import SECTIONS, page, write_page


@pytest.fixture(scope="module")
def made():
    return page(content())


@pytest.fixture(scope="module")
def read(made):
    return Read(made)


def test_hostile_labels_and_texts_are_text(read):
    """No element and no attribute is there but those that the page is made of."""
    known = {
        "html", "head", "meta", "link", "title", "style", "body", "header", "nav", "main", "section", "footer", "h1", "h2", "h3", "p", "dl",
        "dt", "dd", "div", "span", "strong", "small", "b", "i", "a", "bdi", "wbr", "code", "table", "thead", "tbody", "tr", "th", "td", "ol", "li",
        "figure", "figcaption", "details", "summary", "mark", "svg", "defs", "pattern", "path", "rect", "circle", "text",
    }  # fmt: skip
    assert {tag for tag, _ in read.elements} <= known
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    for text in (
        *HOSTILE[:4],
        "&lt;b&gt;",
        "$title ${body} %s",
        "<!-- ",
        "]]>",
        r"\x1b[31mred\x07",
        r"\u202eevil\u202c",
        r"\ud800",
    ):
        assert text in read.text, text
    assert not set("\x1b\x07\u202e\u202c\ud800") & set(read.text)


def test_it_asks_nobody_for_anything(made, read):
    links = [
        value for _, told in read.elements for name, value in told.items() if name in ("src", "href", "srcset", "data", "action")
    ]
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    style = made.partition("<style>")[2].partition("</style>")[0]
    assert (
        "@import" not in style and set(style.split("url(")[1:]) and all(rest.startswith("#") for rest in style.split("url(")[1:])
    )
    policy = next(told["content"] for tag, told in read.elements if tag == "meta" and "http-equiv" in told)
    assert {part.strip() for part in policy.split(";")} == {
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    }  # fmt: skip


def test_it_is_well_formed_and_all_sections_are_there(read):
    assert not read.open and list(read.sections) == [key for key, _, _ in SECTIONS]
    assert {told["href"] for tag, told in read.elements if tag == "a"} == {f"#{key}" for key in read.sections}


@pytest.mark.parametrize(("labels", "epochs"), [(1, 1), (3, 60), (24, 2), (150, 5), (1200, 1000)])
def test_it_stays_small_and_says_what_is_left_out(labels, epochs):
    made = page(content(labels, epochs))
    read = Read(made)
    assert len(made.encode()) < 1_000_000 and "x" * 401 not in made
    if labels == 1200:
        assert "The 300 with the lowest F1 are shown; 900 more" in read.sections["classes"]
        assert "The 150 labels with the most mistakes are shown, of 1,200." in read.sections["confusion"]
        assert "1,050 more labels are in active_tokens.json" in read.sections["words"]
        assert "960 more epochs are in report.json." in read.sections["cost"] and "960 more epochs" in read.sections["shares"]


def test_the_first_screen_says_what_how_good_and_for_how_much(made):
    first = Read(made.partition("<nav")[0]).text
    judged = content().judged
    score = judged.scores["accuracy"]
    percent = [f"{100 * value:.1f}\xa0%" for value in score]
    assert percent[0] in first and f"95 % interval {percent[1]} to {percent[2]}" in first
    assert (
        "fine-tuned on 600 texts" in first
        and "150 labels" in first
        and "50.0\xa0%" in first
        and "40.0\xa0% were planned" in first
    )
    assert "1\xa0min 10\xa0s" in first and "20 times as large" in first and "/home" not in first


def test_no_path_of_a_machine_is_told(read):
    assert "/home/me" not in read.text


def test_without_test_data_it_says_that_validation_chose():
    told = replace(content(3), notes=[])
    text = Read(page(replace(told, judged=replace(told.judged, part="validation")))).text
    assert "There was no test data" in text and "There was no test data" not in Read(page(told)).text


def test_what_there_is_not_is_left_out():
    bare = replace(
        report(["a"]), cost={}, spent=[], planned=[], active=[], examples=[], scope={}, calibration={}, selection=[], history=[]
    )
    read = Read(page(replace(content(2), report=bare, words=None)))
    assert "words" not in read.sections and "What took part was not counted." in read.sections["shares"]
    bare.config["energy"], bare.config["cost"] = "1", None
    assert "No token and no example was left out." in Read(page(replace(content(2), report=bare))).sections["shares"]


def test_what_goes_wrong_is_said_and_costs_the_page_alone(tmp_path):
    said = []
    broken = replace(report(["a"]), data={"task": "no such"})
    write_page(tmp_path / PAGE, broken, scored(items(3)), None, said.append)
    assert said == ["report.html left out: KeyError: 'no such'"] and not list(tmp_path.iterdir())
    write_page(tmp_path / PAGE, report(["a"]), scored(items(3)), None, said.append)
    assert len(said) == 1 and (tmp_path / PAGE).is_file()


def test_overwrite_takes_it_away(tmp_path):
    (tmp_path / PAGE).write_text("old")
    (tmp_path / RUN).write_text("{}")
    clear(tmp_path)
    assert PAGE in RESULTS and not list(tmp_path.iterdir())
