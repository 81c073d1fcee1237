"""What the commands say to people, from the values that --json prints."""

from __future__ import annotations

from pathlib import Path


def synth_text(directory: Path, values: dict) -> str:
    """After `synth`."""
    return (
        f"{directory}: SYNTHETIC cells; the best AUC there is to reach is {values['best_auc']:.2f} "
        f"(an oracle that sees the latent variable reaches {values['oracle_auc']:.3f} on these)"
    )


def prepare_text(dataset: Path, facts: dict) -> str:
    """After `prepare`."""
    counts = facts["counts"]
    lines = [
        f"{dataset}: {counts['files']} images in = {counts['rows']} rows out + "
        f"{counts['rejected']} rejected",
        f"  {counts['ALL']} ALL, {counts['healthy']} healthy, {counts['unlabelled']} unlabelled; "
        f"{counts['subjects']} subjects in {counts['groups']} groups",
    ]
    if counts["rejected"]:
        lines.append(f"  why each was rejected: {dataset}/rejected.parquet")
    return "\n".join(lines)


def audit_text(audit: dict) -> str:
    """After `audit`."""
    lines = [
        f"{audit['cells']} cells in {audit['groups']} groups; {audit['identical_images']} images "
        f"occur more than once, {audit['identical_images_across_subjects']} of them under several "
        "subjects"
    ]
    for item in audit["identical"]:
        lines.append(f"  identical: {' = '.join(item['uids'])}")
    lines += [f"  warning: {warning}" for warning in audit["warnings"]]
    return "\n".join(lines)


def split_text(values: dict) -> str:
    """After `split`."""
    lines = [f"{values['out']}: {values['protocol']}"]
    for role, counts in values["roles"].items():
        lines.append(
            f"  {role:10} {counts['cells']:6} cells = {counts['ALL']} ALL + {counts['healthy']} "
            f"healthy, {counts['subjects']} subjects, {counts['groups']} groups"
        )
    return "\n".join(lines)


def report_text(report: dict, directory: Path) -> str:
    """After `train` and `evaluate`."""
    return f"{report['sentence']}\nReport: {directory / 'report.html'}"


def predict_text(values: dict) -> str:
    """After `predict`."""
    lines = []
    for item in values["predictions"]:
        if "error" in item:
            lines.append(f"{item['name']}: not scored, {item['error']}")
        else:
            lines.append(
                f"{item['name']}: {item['label']}, probability of ALL {item['probability']:.3f} "
                f"(threshold {item['threshold']:g})"
            )
    return "\n".join(lines)


def demo_text(values: dict) -> str:
    """After `demo`."""
    paths, audit = values["paths"], values["audit"]
    return f"""
SYNTHETIC cells: this shows that the system works, and nothing about patients.

  audit    {audit_text(audit)}
  test     {values["report"]["sentence"]}
  ideal    the best AUC there is is {values["best_auc"]:.2f}; a small test scatters around it
  answer   {predict_text({"predictions": [values["answer"]]})}

  report   {paths["report"]}
  bundle   {paths["bundle"]}

Next:
  leuk-ray predict {paths["bundle"]} {paths["image"]}
  leuk-ray train lite --data {paths["dataset"]} --out runs/none attention=none
  leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc     your own images"""
