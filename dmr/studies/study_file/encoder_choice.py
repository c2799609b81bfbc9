"""From `model.encoder` of the study file to the settings of every modality's encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

from dmr.data.dataset import MultimodalDataset
from dmr.encoders import EncoderSettings, check_encoder, default_encoder, encoder_name, find_encoder
from dmr.files import user_path
from dmr.networks.network import check_encoders
from dmr.studies.study_file.mistakes import invalid
from dmr.studies.study_file.schema import encoder_entries


class Chosen(NamedTuple):
    """An encoder as the file names it, and its settings."""

    name: str
    settings: EncoderSettings


def choose_encoders(document: dict[str, Any], dataset: MultimodalDataset) -> dict[str, Chosen]:
    """The encoder of every modality.

    Raises:
        InvalidStudy: no such modality, or an encoder that cannot read its inputs.
    """
    entries = {
        prefix.removeprefix("model.encoder.").removesuffix("."): entry for prefix, entry in encoder_entries(document)
    }
    unknown = set(entries) - {"", *dataset.modality_names}
    if unknown:
        known = ", ".join(dataset.modality_names)
        raise invalid(f"model.encoder.{sorted(unknown)[0]}", f"no such modality; they are {known}")
    chosen = {}
    for modality in dataset.modalities:
        entry = dict(entries.get(modality.name, entries.get("", {})))
        try:
            name = entry.pop("name", None) or encoder_name(default_encoder(modality, dataset.task))
            chosen[modality.name] = Chosen(name, find_encoder(name)(**entry))
            check_encoder(modality, chosen[modality.name].settings, dataset.task)
        except (ValueError, TypeError) as error:
            raise invalid("model.encoder", str(error)) from None
    return chosen


def fitting_encoders(document: dict[str, Any], dataset: MultimodalDataset) -> dict[str, Chosen]:
    """The encoder of every modality, their features fit to be fused.

    Raises:
        InvalidStudy: as for `choose_encoders`, or they cannot be fused.
    """
    chosen = choose_encoders(document, dataset)
    try:
        check_encoders(dataset.modalities, {modality: encoder.settings for modality, encoder in chosen.items()})
    except ValueError as error:
        raise invalid("model.encoder", str(error)) from None
    return chosen


def resolved_encoder(document: dict[str, Any], keys: Iterable[str], dataset: MultimodalDataset) -> dict[str, Any]:
    """`model.encoder` with its defaults: one for all, where neither the file nor `keys` tells modalities apart.

    Args:
        keys: what is searched, or fixed in a block of the search.
    """
    chosen = {
        modality: {"name": encoder.name, **asdict(encoder.settings), "weights": _absolute(encoder.settings.weights)}
        for modality, encoder in fitting_encoders(document, dataset).items()
    }
    by_modality = [prefix for prefix, _ in encoder_entries(document) if prefix != "model.encoder."]
    if by_modality or any(key.startswith(f"model.encoder.{modality}.") for key in keys for modality in chosen):
        return chosen
    one, *others = chosen.values()
    return {key: value for key, value in one.items() if all(key in o and o[key] == value for o in others)}


def _absolute(file: str | None) -> str | None:
    """A study goes on from any directory."""
    return file and str(user_path(file).resolve())
