import matplotlib
import pytest

from learned_opt.analysis.reporting.curves import method_styles, plot_curves


@pytest.mark.parametrize("panels", [1, 5, 12])
def test_a_figure_has_one_titled_panel_a_family_and_one_legend(panels, tmp_path, results):
    path = tmp_path / "curves.png"
    figure = plot_curves(results(panels), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == panels
    assert figure.axes[0].get_title() == "family_0 (held-out tasks)"
    assert len(figure.legends) == 1
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["learned", "adam"]
    assert not any(axes.get_legend() for axes in figure.axes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("panels", "count"), [(1, 3), (4, 18), (2, 40)])
def test_a_legend_of_many_lies_below_all_panels(panels, count, tmp_path, results):
    labels = [f"a variant with a longish name, {number}" for number in range(count)]
    figure = plot_curves(results(panels, labels), tmp_path / "a.png")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)


def test_axes_say_what_they_measure(tmp_path, results):
    raw = plot_curves(results(1), tmp_path / "a.png").axes[0]
    assert (raw.get_xlabel(), raw.get_ylabel()) == ("updates", "return per episode")
    scaled = plot_curves(results(1), tmp_path / "b.svg", x="steps", y="normalized").axes[0]
    assert (scaled.get_xlabel(), scaled.get_ylabel()) == ("environment steps", "normalized return")
    assert scaled.get_xlim() == (0, 30 * 512)


def test_the_reference_is_drawn_only_where_it_lies_in_range(tmp_path, results):
    far, near = plot_curves(results(2), tmp_path / "a.png").axes
    assert "reference" not in far.get_legend_handles_labels()[1]
    assert "reference" in near.get_legend_handles_labels()[1]
    assert far.get_ylim()[1] < 20


def test_a_method_has_its_own_colour_and_adam_the_same_everywhere():
    styles = method_styles(["learned", "adam", "sgd", "rmsprop", "adamw", *map(str, range(12))])
    assert len(set(styles.values())) == len(styles)
    assert method_styles(["adam"])["adam"] == styles["adam"]


def test_of_a_thousand_methods_no_two_look_the_same():
    styles = method_styles(["adam", "sgd", *map(str, range(1000))])
    assert len({style[:3] for style in styles.values()}) == len(styles)
    assert len({(style.color, style.point) for style in styles.values()}) == len(styles)
    assert all(style.marker == "" for style in list(styles.values())[:34])


def test_methods_beyond_the_dashes_are_drawn_apart(tmp_path, results):
    figure = plot_curves(results(1, [f"method {i}" for i in range(70)]), tmp_path / "a.png")
    lines = [line for line in figure.axes[0].lines if line.get_label().startswith("method")]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(lines) == 70


def test_plotting_leaves_matplotlib_as_it_was(tmp_path, results):
    before = dict(matplotlib.rcParams)
    plot_curves(results(1), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


def test_wrong_requests_are_refused_with_a_sentence(tmp_path, results):
    with pytest.raises(ValueError, match="no results for chess"):
        plot_curves(results(1), tmp_path / "a.png", families=["chess"])
    with pytest.raises(ValueError, match="1 to 12 panels, got 13"):
        plot_curves(results(13), tmp_path / "a.png")
    with pytest.raises(ValueError, match="x is 'updates' or 'steps'"):
        plot_curves(results(1), tmp_path / "a.png", x="time")
