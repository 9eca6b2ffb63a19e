"""The data sheet of a dataset: the sections of Gebru et al., Datasheets for Datasets (arXiv 1803.09010).

Answered is what the run, or the dataset itself, can answer; the other questions are left to the author.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusiform.advice.cards.facts import Facts
from fusiform.advice.cards.sections import Block, Items, Questions, Section, Table, plural
from fusiform.report import Cell
from fusiform.spec import Task

SHOWN_FILES = 10
"""Files that are named for each kind of what they say of people; that many more are there is said."""
_LABELS: dict[Task, str] = {
    "classification": "the class that it shows",
    "detection": "a box and a class for each object",
    "segmentation": "the class of each pixel",
}


def data_sheet(facts: Facts) -> list[Section]:
    """All sections; none where nothing is known of any data."""
    if facts.data is None:
        return []
    return [
        Section("Motivation", [Questions(["For what purpose was the dataset made, by whom, and who paid for it?"])]),
        Section("Composition", list(_composition(facts))),
        Section("Collection process", list(_collection(facts))),
        Section("Preprocessing, cleaning and labelling", list(_preprocessing(facts))),
        Section("Uses", list(_uses(facts))),
        Section(
            "Distribution",
            [
                Questions(
                    [
                        "Is the dataset given to others, how, and under which licence?",
                        "Do third parties have rights in the images?",
                    ]
                )
            ],
        ),
        Section(
            "Maintenance",
            [
                Questions(
                    ["Who keeps the dataset, and how are they reached?", "Will it be corrected or extended, and how?"]
                )
            ],
        ),
    ]


def _composition(facts: Facts) -> Iterator[Block]:
    data, task = facts.data, facts.spec.task
    assert data is not None
    total = sum(data.splits.values())
    yield (
        f"Each instance is an image with a label: {_LABELS[task]}. There are {plural(total, 'image')} and "
        f"{len(facts.spec.labels):,} classes."
    )
    yield {
        **{f"split {split}": count for split, count in data.splits.items()},
        "SHA-256 of names, labels and splits": data.fingerprint,
    }
    if data.counts:
        splits = list(data.splits)
        yield Table(
            [
                {"class": name, **{split: each.get(split, 0) for split in splits}, "all": sum(each.values())}
                for name, each in data.counts.items()
            ],
            "Objects of each class" if task == "detection" else "Images of each class",
        )
    if data.change:
        yield data.change
    personal = data.personal
    if personal is not None:
        yield (
            f"Of {plural(personal.images, 'image')}, EXIF, XMP and IPTC were searched for positions, places, names, "
            "serial numbers and faces; makers' notes are not read, and what images show was not looked at."
            + (f" {plural(personal.unread, 'image')} could not be searched." if personal.unread else "")
        )
        if rows := personal.rows():
            yield Table(rows, "What the files say of people")
            for kind, names in personal.files.items():
                if names:
                    more = f" and {len(names) - SHOWN_FILES:,} more" if len(names) > SHOWN_FILES else ""
                    yield f"{kind[0].upper()}{kind[1:]}: {', '.join(names[:SHOWN_FILES])}{more}."
        else:
            yield "Nothing of the kind was found."
    yield Questions(
        [
            "Are these all images there are, or a sample of a larger set, and how was it drawn?",
            "Are there wrong labels or copies? fusiform doctor DATA --model MODEL looks for both.",
            "Do images show people, and can they be recognised?",
            "Is anything confidential, or apt to offend or frighten?",
        ]
    )


def _collection(facts: Facts) -> Iterator[Block]:
    personal = facts.data.personal if facts.data else None
    if personal is not None and personal.dated:
        yield (
            f"By EXIF, {personal.dated:,} of {plural(personal.images, 'image')} were taken between {personal.first} "
            f"and {personal.last}."
        )
    if personal is not None and personal.cameras:
        common = sorted(personal.cameras.items(), key=lambda item: (-item[1], item[0]))
        rows: list[dict[str, Cell]] = [{"camera": name, "images": count} for name, count in common[:SHOWN_FILES]]
        yield Table(rows, f"Cameras, by EXIF, of {len(common):,}" if len(common) > SHOWN_FILES else "Cameras, by EXIF")
    yield Questions(
        [
            "How and by whom were the images collected, and over what time?",
            "Did the people shown or concerned know of it and agree, and can they withdraw?",
            "Was there an ethical review?",
        ]
    )


def _preprocessing(facts: Facts) -> Iterator[Block]:
    data, preprocess, recipe = facts.data, facts.spec.preprocess, facts.recipe
    assert data is not None
    done = [
        f"The network sees squares of {preprocess.crop} pixels, from images whose shorter side is resized to "
        f"{preprocess.resize} pixels ({preprocess.interpolation})."
        if preprocess.fit == "crop"
        else f"The network sees images made into squares of {preprocess.crop} pixels ({preprocess.fit})."
    ]
    if data.held_out:
        done.append(
            f"fusiform train kept {plural(data.splits.get('val', 0), 'image')} back for validation, drawn at random "
            f"(val_fraction={recipe.get('val_fraction')}, seed={recipe.get('seed')}), near-duplicates all on one side."
        )
    if facts.run is not None and recipe.get("augment"):
        done.append(f"While training, images were changed at random: augment={recipe['augment']}.")
    yield Items(done)
    yield Questions(
        [
            "Who labelled the images, by what rules, and how was it checked?",
            "Were images left out or changed beforehand, and are the raw ones kept?",
        ]
    )


def _uses(facts: Facts) -> Iterator[Block]:
    if facts.run is not None:
        yield f"It was used to train {facts.spec.name} ({facts.name}); the model card has what came of it."
    yield Questions(["What else could it be used for, and what should it not be used for?"])
