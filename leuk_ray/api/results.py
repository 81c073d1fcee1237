"""What the functions of the Python API return."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuk_ray.evaluation.report_model import Report
from leuk_ray.io.locations import Location, join

if TYPE_CHECKING:
    import pandas as pd

    from leuk_ray.inference.classifier import Classifier
    from leuk_ray.tuning.report import SweepReport


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """A report on scored cells.

    folder: of report.html, report.json and predictions.parquet.
    """

    folder: Location
    report: Report

    def to_pandas(self) -> pd.DataFrame:
        """Metrics of the test cells, a row each.

        Columns: view (`binary`, of positive classes and the others; or `classes`), metric, value,
        numerator and denominator where it is a ratio of counts, and low and high, its 95% interval
        over groups of patients, where there is one.
        """
        import pandas as pd

        views = {
            "binary": (self.report.tested, self.report.intervals),
            "classes": (self.report.tested_classes, self.report.class_intervals),
        }
        rows = []
        for view, (metrics, intervals) in views.items():
            for name, metric in (metrics or {}).items():
                if not isinstance(metric, dict) or "value" not in metric:
                    continue
                interval = intervals.get(name)
                rows.append(
                    {
                        "view": view,
                        "metric": name,
                        "value": metric["value"],
                        "numerator": metric.get("numerator"),
                        "denominator": metric.get("denominator"),
                        "low": interval and interval.low,
                        "high": interval and interval.high,
                    }
                )
        return pd.DataFrame(rows).convert_dtypes()

    @property
    def sentence(self) -> str:
        """The result in words, after what marks it: rendered cells, patients in two roles."""
        return f"{_marked(self.report.run.synthetic)}{self.report.sentence}"

    def __repr__(self) -> str:
        return f"{self.sentence}\nReport: {join(self.folder, 'report.html')}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.sentence)}</p>{self.to_pandas().to_html(na_rep='')}"


@dataclass(frozen=True, repr=False)
class TrainedRun(EvaluationResult):
    """A run: its best network as a bundle, and the report on its test cells."""

    run: Location

    @property
    def bundle(self) -> Location:
        """Folder of the trained classifier."""
        return join(self.run, "bundle")

    def classifier(self, device: str = "cpu") -> Classifier:
        """Return the trained classifier, ready to predict."""
        from leuk_ray.inference.classifier import Classifier

        return Classifier.load(self.bundle, device)


@dataclass(frozen=True, repr=False)
class CalibratedBundle:
    """A bundle that abstains where it is not certain.

    bundle: its folder. summary: what `leuk-ray calibrate --json` prints: cells, temperature, and
    where it abstains (see `workflows.calibrate.calibrate`).
    """

    bundle: Location
    summary: dict[str, Any]

    def classifier(self, device: str = "cpu") -> Classifier:
        """Return the calibrated classifier, ready to predict."""
        from leuk_ray.inference.classifier import Classifier

        return Classifier.load(self.bundle, device)

    def __repr__(self) -> str:
        cells, temperature = self.summary["cells"], self.summary["temperature"]
        return f"<calibrated on {cells} cells, temperature {temperature:.3g}: {self.bundle}>"


@dataclass(frozen=True, repr=False)
class SweepResult:
    """A sweep: its report, and the best networks as bundles.

    folder: of the sweep; bundles are in top/1, top/2 and so on, best first.
    """

    folder: Path
    report: SweepReport

    @property
    def bundle(self) -> Path:
        """Folder of the best classifier."""
        return self.folder / "top" / "1"

    def to_pandas(self) -> pd.DataFrame:
        """Return a row a configuration, best first: its settings, mean over seeds and interval."""
        import pandas as pd

        rows = [dict(row) | row["overrides"] for row in self.report.leaderboard]
        return pd.DataFrame(rows).drop(columns="overrides")

    def __repr__(self) -> str:
        page = self.folder / "report" / "report.html"
        return f"{_marked(self.report.synthetic)}{self.report.sentence}\nReport: {page}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(max_rows=20)}"


@dataclass(frozen=True, repr=False)
class Detections:
    """Cells found in fields of view.

    folder: of tables, crops and overlays. summary: what detect.json holds.
    """

    folder: Path
    summary: dict[str, Any]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row a cell, with the columns of detections.csv: boxes in pixels of the field."""
        import pandas as pd

        (table,) = self.folder.glob("detections.*")
        return pd.read_csv(table) if table.suffix == ".csv" else pd.read_parquet(table)

    def __repr__(self) -> str:
        counts = self.summary["counts"]
        return f"<{counts['cells']} cells in {counts['fields']} fields: {self.folder}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self)[1:-1])}</p>{self.to_pandas().to_html(max_rows=20)}"


def _marked(synthetic: bool) -> str:
    return "SYNTHETIC cells: " if synthetic else ""
