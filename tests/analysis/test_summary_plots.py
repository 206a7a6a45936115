import numpy as np
import pytest

from learned_opt.analysis.reporting.summary_plots import plot_heatmap, plot_profiles, plot_times
from learned_opt.analysis.results import Results


def test_profiles_have_one_panel_a_split_and_fall_from_one_to_zero(tmp_path, results):
    figure = plot_profiles(results(3), tmp_path / "a.png")
    assert [axes.get_title() for axes in figure.axes] == [
        "held-out tasks: 2 families",
        "held-out families: 1 family",
    ]
    line = figure.axes[1].lines[0].get_ydata()
    assert line[0] == 1.0
    assert line[-1] == 0.0
    assert (np.diff(line) <= 0).all()


def test_the_heatmap_frames_the_best_method_of_each_family(tmp_path, results):
    figure = plot_heatmap(results(2), tmp_path / "a.png")
    cells = figure.axes[0].texts
    assert len(cells) == 4
    for row in (cells[:2], cells[2:]):
        (framed,) = (cell for cell in row if cell.get_bbox_patch() is not None)
        assert float(framed.get_text()) == max(float(cell.get_text()) for cell in row)


def test_times_have_a_line_for_each_family_with_a_target_and_a_median(tmp_path, results):
    figure = plot_times(results(3), tmp_path / "a.png")
    titles = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert titles == [
        "family_0 (held-out tasks)",
        "family_2 (held-out tasks)",
        "median of held-out tasks",
        "family_1 (held-out families)",
    ]


def test_times_need_a_rival(tmp_path, results):
    alone = results(1, labels=("learned",))
    alone = Results("", 0, 30, {"learned": "0"}, alone.families)
    with pytest.raises(ValueError, match="hand-made method"):
        plot_times(alone, tmp_path / "a.png")
