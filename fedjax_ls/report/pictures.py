"""Pictures of a study; matplotlib is imported when one is drawn."""

import io
import math
from typing import Any, NamedTuple

import numpy as np

from fedjax_ls import study
from fedjax_ls.report.selection import Cell, best

# Okabe and Ito's palette, told apart by most colour-blind readers.
COLORS = (
  '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000',
)  # fmt: skip
MARKERS = 'os^Dv<>'
ACROSS = 5  # panels side by side
MOST_TICKS = 12  # more are of curves, not of a number that was tried
WIDTH = 10.5  # inches, the width of a page on a laptop


class Curve(NamedTuple):
  """Test accuracy over something, mean over seeds.

  Attributes:
    x: `[P]`.
    mean: `[P]`.
    std: `[P]`, of the sample; 0 for one seed.
  """

  x: np.ndarray
  mean: np.ndarray
  std: np.ndarray


def learning_curve(cell: Cell, over: str = 'round') -> Curve | None:
  """Of the chosen setting, None where there is none or `over` is unknown.

  Args:
    cell: of a study.
    over: the metric on the horizontal axis, its mean over seeds.
  """
  lines = [{line['round']: line for line in r.lines} for r in cell.runs]
  rounds = sorted(set.intersection(*map(set, lines))) if lines else []
  if not rounds or over not in lines[0][rounds[0]]:
    return None
  x = [[run[r][over] for r in rounds] for run in lines]
  y = [[run[r][study.ACCURACY] for r in rounds] for run in lines]
  return Curve(np.mean(x, 0), *_spread(np.array(y, float)))


def sensitivity(cell: Cell, field: str) -> Curve | None:
  """Accuracy for each value of a number, the rest tuned; None for one value."""
  values: dict[float, list[study.Record]] = {}
  for record in cell.records:
    values.setdefault(record.fields[field], []).append(record)
  found = []
  for value, records in sorted(values.items()):
    _, runs, _ = best(records)
    scores = [[study.chosen(r)[0][study.ACCURACY]] for r in runs]
    if scores:
      found.append([value, *np.ravel(_spread(np.array(scores)))])
  return Curve(*np.array(found).T) if len(found) > 1 else None


def draw(
  curves: dict[str, Curve | None],
  reference: str,
  xlabel: str,
  *,
  log: bool = False,
) -> Any:
  """Draws curves with bands of one standard deviation.

  Up to seven share a panel; more get a panel each, over the reference in grey.

  Args:
    curves: `{label: curve}`; None is left out.
    reference: label of the grey one.
    xlabel: what is on the horizontal axis.
    log: whether it is logarithmic.

  Returns:
    A matplotlib Figure, None if there is no curve.
  """
  known = {label: c for label, c in curves.items() if c is not None}
  if not known:
    return None
  if len(known) <= len(COLORS):
    return _together(known, xlabel, log)
  return _apart(known, reference, xlabel, log)


def clients(counts: np.ndarray, title: str = '') -> Any:
  """How many rows the clients hold, `counts[C]`: a histogram."""
  figure = _figure(5.2, 2.6)
  axes = figure.add_subplot(title=title)
  axes.hist(counts, bins=min(30, len(counts)), color=COLORS[0])
  axes.set(xlabel='train rows of a client', ylabel='clients')
  return figure


def png(figure: Any) -> bytes:
  """The picture as a file."""
  from PIL import Image

  drawn, packed = io.BytesIO(), io.BytesIO()
  figure.savefig(drawn, format='png')
  # A palette takes a third of the bytes, and looks the same if it is chosen by
  # the range of the colours: thin lines have few pixels.
  image = Image.open(drawn).convert('RGB')
  image = image.quantize(256, Image.Quantize.MAXCOVERAGE)
  image.save(packed, format='png', optimize=True)
  return packed.getvalue()


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation over the first axis, `[S, P]`."""
  one = len(values) < 2
  std = np.zeros(values.shape[1]) if one else values.std(0, ddof=1)
  return values.mean(0), std


def _together(curves: dict[str, Curve], xlabel: str, log: bool) -> Any:
  figure = _figure(7.5, 4.2)
  axes = figure.add_subplot()
  for i, (label, curve) in enumerate(curves.items()):
    _plot(axes, curve, COLORS[i], MARKERS[i], label)
  _scale(axes, curves, log)
  axes.set(xlabel=xlabel, ylabel='test accuracy (%)')
  axes.legend(frameon=False)
  return figure


def _apart(
  curves: dict[str, Curve], reference: str, xlabel: str, log: bool
) -> Any:
  down = math.ceil(len(curves) / ACROSS)
  figure = _figure(WIDTH, 0.6 + 1.6 * down)
  panels = figure.subplots(
    down, ACROSS, sharex=True, sharey=True, squeeze=False
  ).ravel()
  for axes, (label, curve) in zip(panels, curves.items(), strict=False):
    if reference in curves and label != reference:
      _plot(axes, curves[reference], '#888888', None)
    _plot(axes, curve, COLORS[0], 'o')
    axes.set_title(label, fontsize=9)
    _scale(axes, curves, log)
  for axes in panels[len(curves) :]:
    axes.set_visible(False)
  for axes in panels[max(len(curves) - ACROSS, 0) : len(curves)]:
    axes.tick_params(labelbottom=True)
  figure.supxlabel(xlabel, fontsize=9)
  figure.supylabel('test accuracy (%)', fontsize=9)
  return figure


def _plot(axes, curve: Curve, color: str, marker, label: str = '') -> None:
  mean, std = 100 * curve.mean, 100 * curve.std
  style = {'lw': 1.5, 'marker': marker, 'ms': 3.5, 'label': label}
  axes.plot(curve.x, mean, color=color, **style)
  axes.fill_between(
    curve.x, mean - std, mean + std, color=color, alpha=0.2, lw=0
  )


def _scale(axes, curves: dict[str, Curve], log: bool) -> None:
  """Limits that hold all curves, and ticks where a number was tried."""
  low = min(np.min(c.mean - c.std) for c in curves.values())
  high = max(np.max(c.mean + c.std) for c in curves.values())
  bottom = min(max(5 * math.floor(20 * low), 0), 95)
  axes.set_ylim(bottom, max(min(5 * math.ceil(20 * high), 100), bottom + 5))
  axes.grid(alpha=0.3)
  axes.tick_params(labelsize=8)
  if log:
    tried = sorted({float(x) for c in curves.values() for x in c.x if x > 0})
    axes.set_xscale('log')
    if len(tried) <= MOST_TICKS:
      turn = 45 if len(tried) > 4 else 0
      axes.set_xticks(tried, [f'{x:g}' for x in tried], rotation=turn)
      axes.minorticks_off()


def _figure(width: float, height: float) -> Any:
  from matplotlib import figure

  # A bare Figure draws without a display and leaves pyplot's state alone.
  return figure.Figure((width, height), dpi=100, layout='constrained')
