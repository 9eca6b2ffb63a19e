"""The model card and the data sheet of a model, from its run: what ``fusiform card`` runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform.advice.cards import data_sheet as sheets
from fusiform.advice.cards import model_card as cards
from fusiform.advice.cards import writing
from fusiform.advice.cards.facts import Facts, gather
from fusiform.advice.cards.sections import Section
from fusiform.drawing.page import Headline, Page
from fusiform.errors import OutputError, UsageError
from fusiform.files import check_place, write_file
from fusiform.progress import Tracker, tracker

FILES = ("model_card.md", "data_sheet.md", "card.html")
"""What is written into a folder."""


@dataclass(frozen=True, repr=False)
class ModelCard:
    """A model card and a data sheet: sections that were answered, and the questions that only the author can answer.

    ``sheet`` is empty where nothing is known of any data.
    """

    name: str
    lead: str
    metadata: Mapping[str, Any]
    card: Sequence[Section]
    sheet: Sequence[Section]
    about: Sequence[str]
    headlines: Sequence[Headline]

    def to_markdown(self) -> str:
        """Both as one text, after the metadata of Hugging Face's model cards."""
        return "\n".join([self.card_markdown(), *([self.sheet_markdown()] if self.sheet else [])])

    def card_markdown(self) -> str:
        """The model card, after the metadata."""
        return writing.markdown(self.name, self.lead, self.card, self.metadata)

    def sheet_markdown(self) -> str:
        """The data sheet."""
        return writing.markdown(f"Data sheet of {self.name}", f"The data of {self.name}.", self.sheet, {})

    def page(self) -> Page:
        """Both as a page to look at."""
        parts = (("Model card", self.card), ("Data sheet", self.sheet))
        return writing.page(self.name, self.lead, self.headlines, parts, about=self.about)

    def write(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write both as Markdown (``FILE.md``), as a page (``FILE.html``), or all of ``FILES`` into a folder.

        Returns the files. UsageError for another kind of file, OutputError where it cannot be written.
        """
        path = Path(path)
        check_out(path)
        if path.suffix.lower() == ".md":
            write_file(path, self.to_markdown().encode("utf-8", "backslashreplace"))
            return (path,)
        if path.suffix.lower() == ".html":
            self.page().write(path)
            return (path,)
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {path} ({error.strerror or error}): choose another place") from None
        texts = {FILES[0]: self.card_markdown(), FILES[1]: self.sheet_markdown() if self.sheet else ""}
        written = []
        for name, text in texts.items():
            if text:
                write_file(path / name, text.encode("utf-8", "backslashreplace"))
                written.append(path / name)
        self.page().write(path / FILES[2])
        return (*written, path / FILES[2])

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        return f"<ModelCard {self.name}: {self.lead}>"

    def _repr_html_(self) -> str:
        return self.page().fragment()


def card(
    model: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: bool | Tracker | None = None,
) -> ModelCard:
    """Write a model card and a data sheet from a training run alone.

    The sections are those of Mitchell et al. (arXiv 1810.03993) and Gebru et al. (arXiv 1803.09010). What the run's
    folder says is in them: data with their hash, the recipe, figures with intervals, the limits that were found, the
    licences. The images, if they are still there, are searched for EXIF, XMP and IPTC that say something of people.
    What only the author knows stands there as questions. The same run and images give the same card.

    Args:
        model: The folder of a training run, a model file within it, or any other model, of which less is known.
        data: The dataset, where it lies elsewhere than it did while training, or of a model without a run.
        root: The folder that the paths in a list begin in; None is the list's own.
        progress: Whether to show on standard error how far it is; None where that is a terminal or a notebook.

    Returns:
        The card: ``to_markdown()``, ``page()``, and ``write(path)`` for a file or a folder.

    Raises:
        UsageError: For data that do not fit, or a run whose files are damaged.
        WeightsError: For a model that cannot be used.
        MissingExtraError: Where PyTorch is not installed, for a run.

    Example:
        >>> import fusiform
        >>> card = fusiform.card("mobilenet_v2")
        >>> card.metadata["pipeline_tag"]
        'image-classification'

    """
    facts = gather(model, data=data, root=root, progress=tracker(progress))
    return ModelCard(
        facts.name,
        cards.lead(facts),
        cards.front_matter(facts),
        cards.model_card(facts),
        sheets.data_sheet(facts),
        _about(facts),
        _headlines(facts),
    )


def check_out(path: Path) -> None:
    """Raise UsageError for a file that is no Markdown and no page, and OutputError where nothing can be written."""
    if path.suffix and not path.is_dir():
        check_place(path, (".md", ".html"), "a card is FILE.md, FILE.html, or a folder")
    elif path.exists() and not path.is_dir():
        raise UsageError(f"{path}: a card is FILE.md, FILE.html, or a folder")
    elif not path.absolute().parent.is_dir():
        raise OutputError(f"cannot make {path} (there is no folder for it): choose another place")


def _about(facts: Facts) -> list[str]:
    lines = [f"Model: {facts.model.path}"]
    if facts.environment.get("started"):
        lines.append(f"Trained: {str(facts.environment['started']).partition('T')[0]}")
    if facts.data is not None:
        lines.append(f"Data: {facts.data.name}")
    return lines


def _headlines(facts: Facts) -> list[Headline]:
    best = cards.reached(facts)
    if best is None:
        return []
    over = f"{best.images:,} images"
    note, bar = f"over {over}", None
    if best.low is not None and best.high is not None:
        note = f"95 % interval {100 * best.low:.1f} to {100 * best.high:.1f}, over {over}"
        bar = (best.low, best.value, best.high)
    data = sum(facts.data.splits.values()) if facts.data else 0
    return [
        Headline(f"{100 * best.value:.1f}", best.what, "%", note, bar),
        Headline(f"{facts.spec.num_classes:,}", "classes"),
        *([Headline(f"{data:,}", "images")] if data else []),
    ]
