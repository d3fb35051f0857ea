"""Tables and plots of stored results: in the pages' markers, nothing over the edge, one colour for one peer."""

from __future__ import annotations

import json

import pytest

from benchmarks import plot, promises, tables


def stored(folder, faster):
    entry = {"peer": False, "cold": {"median": 0.002}, "times_faster_than_best_peer": faster, "times_floor": 2.0}
    entry["instruction_set"] = "avx2"
    case = {"name": "a case", "entries": {"ours": entry, "eager": {**entry, "peer": True, "cold": {"median": 0.02}}}}
    head = {"family": "noise", "commit": "c", "date": "2026-01-01", "versions": {"torch": "2"}, "cases": [case]}
    where = {"device": "cpu", "name": "CPU", "threads": 2, "instruction_set": "avx2"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "noise.json").write_text(json.dumps({**head, "machine": where, "ceilings": {"copy_bytes": 3e10}}))


def repository(folder, **pages):
    """A repository whose README.md and pages of docs/ hold these texts."""
    (folder / "docs" / "operations").mkdir(parents=True)
    for name, text in {"README": "", **pages}.items():
        (folder if name == "README" else folder / "docs" / "operations").joinpath(f"{name}.md").write_text(text)
    return folder / "benchmarks" / "results"


def test_pages_hold_the_stored_results_and_nothing_around_them_changes(tmp_path):
    results = repository(tmp_path, noise="above\n<!-- benchmarks noise -->\nold\n<!-- /benchmarks noise -->\nbelow\n")
    page = tmp_path / "docs" / "operations" / "noise.md"
    place = f"--repository={tmp_path}"
    stored(results / "cpu", 9.9)
    (results / "cpu" / "noise.png").touch()
    assert tables.main([place, "--check"]) == 1 and "old" in page.read_text()
    assert tables.main([place]) == 0
    text = page.read_text()
    assert text.startswith("above\n<!-- benchmarks noise -->\n") and "old" not in text
    assert text.endswith("<!-- /benchmarks noise -->\nbelow\n")
    assert "| a case | 2 | 20 | **9.9** | 2.0 |" in text
    assert "](../../benchmarks/results/cpu/noise.png)" in text  # from the page to the plot
    assert tables.main([place, "--check"]) == 0
    stored(results / "cpu", 1.1)
    assert tables.main([place, "--check"]) == 1


def test_the_readme_holds_five_of_the_stored_cases(tmp_path, monkeypatch):
    results = repository(tmp_path, README="<!-- benchmarks -->\n<!-- /benchmarks -->\n")
    stored(results / tables.HEADLINE_MACHINE, 9.9)
    monkeypatch.setattr(tables, "HEADLINES", ("a case", "a case that nobody measured"))
    assert tables.main([f"--repository={tmp_path}"]) == 0
    assert "| `a case` | 2 | 20 | eager | **9.9** |" in (tmp_path / "README.md").read_text()
    monkeypatch.undo()
    assert len(tables.HEADLINES) == 5
    assert tables.headlines(tables.REPOSITORY / "benchmarks" / "results" / tables.HEADLINE_MACHINE).count("\n") == 7


def test_a_family_shows_what_was_promised_and_what_was_measured():
    def promise(text, value, name):
        return promises.Promise(text, lambda cases: value, at_least=2, needs=[name])

    def not_here(cases):
        raise promises.NotMeasured("no such instruction set")

    held = [promise("times faster", 3.456, "a case"), promise("times faster there", 1.0, "another")]
    held.append(promises.Promise("times faster, AVX-512", not_here, at_least=1, needs=["a case"]))
    table = tables.promises_table({"cases": [{"name": "a case"}]}, held)
    assert table.splitlines()[2:] == ["| times faster (a case) | ≥ 2 | 3.46 |"]
    assert tables.promises_table({"cases": []}, held) == ""


def test_a_marker_that_names_no_family_is_refused(tmp_path, capsys):
    repository(tmp_path, README="<!-- benchmarks nose -->\n<!-- /benchmarks nose -->\n")
    with pytest.raises(SystemExit):
        tables.main([f"--repository={tmp_path}"])
    assert "has a marker 'benchmarks nose'" in capsys.readouterr().err


def test_the_table_has_a_column_for_each_peer_of_any_case():
    def case(name, *peers):
        entry = {"cold": {"median": 0.002}, "times_faster_than_best_peer": 3.0, "times_floor": 2.0}
        ours = {**entry, "peer": False, "instruction_set": "avx512"}
        return {"name": name, "entries": {"ours": ours, **{peer: {**entry, "peer": True} for peer in peers}}}

    cases = [case("given", "eager"), case("drawn", "eager", "eager noise"), case("other", "own noise")]
    header, _, *rows = tables.family_table({"family": "f", "cases": cases}).splitlines()
    assert header.startswith("| f | ours (AVX-512), ms | eager, ms | eager noise, ms | own noise, ms | ×")
    assert rows == [
        "| given | 2 | 2 | – | – | **3.0** | 2.0 |",
        "| drawn | 2 | 2 | 2 | – | **3.0** | 2.0 |",
        "| other | 2 | – | – | 2 | **3.0** | 2.0 |",
    ]


def picture_of(count, monkeypatch, tmp_path):
    """The figure of `count` cases as it is saved."""
    figures, close = [], plot.pyplot.close
    monkeypatch.setattr(plot.pyplot, "close", figures.append)
    floors = {"ours": 1.5, "ours, avx2": 3.0, "eager": 9.0, "torch.compile": 30.0, "torch.compile, eager noise": 12.0}
    entries = {
        name: {
            "peer": not name.startswith("ours"),
            "instruction_set": {"ours": "avx512", "ours, avx2": "avx2"}.get(name),
            "times_floor": times,
            "times_faster_than_best_peer": 6.0,
        }
        for name, times in floors.items()
    }
    cases = [
        {
            "name": f"diffuse velocity float32 64×3×256×25{row} noise given",
            "entries": {name: entry for name, entry in entries.items() if row != 1 or name != "eager"},
        }
        for row in range(count)
    ]
    where = {"device": "cpu", "name": "A processor with a long name", "threads": 2}
    plot.plot_family({"family": "diffuse", "machine": where, "cases": cases}, tmp_path / "picture.png")
    close(figures[0])
    return figures[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 12])
def test_everything_drawn_lies_inside_the_picture_and_apart(count, monkeypatch, tmp_path):
    figure = picture_of(count, monkeypatch, tmp_path)
    (axes,), (title,), (legend,) = figure.axes, figure.texts, figure.legends
    plotted, named, explained = axes.get_tightbbox(), title.get_window_extent(), legend.get_window_extent()
    for box in (plotted, named, explained):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert plotted.y1 <= explained.y0 and explained.y1 <= named.y0
    ticks = [
        label for label in axes.get_xticklabels() if axes.get_xlim()[0] <= label.get_position()[0] <= axes.get_xlim()[1]
    ]
    assert len(ticks) >= 4  # a logarithmic axis with one number says nothing


def test_a_way_of_computing_has_one_colour_in_all_rows(monkeypatch, tmp_path):
    (axes,) = picture_of(3, monkeypatch, tmp_path).axes
    colours = {}
    for dots in axes.collections:
        colours.setdefault(dots.get_label(), set()).add(tuple(dots.get_edgecolor()[0]))
    assert set(map(len, colours.values())) == {1}
    assert len(set.union(*(colours[name] for name in ("eager", "torch.compile", "torch.compile, eager noise")))) == 3


@pytest.mark.parametrize("text", ["", "<!-- benchmarks -->\n", "<!-- /benchmarks -->\n<!-- benchmarks -->\n"])
def test_a_page_without_both_of_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="once each"):
        tables.with_block(text, "benchmarks", "content")
