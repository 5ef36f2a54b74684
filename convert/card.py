"""`python -m convert card`: write the model card of a checkpoint that has none, or has an older one."""

import dataclasses
from pathlib import Path

from show1_jax.checkpoints.arrays import parameter_counts
from show1_jax.checkpoints.cards.licences import check_licence, licence_of
from show1_jax.checkpoints.cards.model_card import add_sheet, own_card_in, write_card
from show1_jax.checkpoints.manifest import CARD, MANIFEST, Manifest, read_manifest
from show1_jax.errors import UserError
from show1_jax.files import write_bytes


def with_licence(manifest: Manifest, licence: str, checkpoint: Path) -> Manifest:
    """Return a manifest with a licence for the components that record none.

    Args:
        manifest: manifest of the checkpoint.
        licence: the licence, as the hub names it, e.g. `apache-2.0`.
        checkpoint: the checkpoint's directory, for errors.

    Raises:
        UserError: it is no name of a licence, or all components record one.
    """
    check_licence(licence)
    without = [name for name, part in manifest.components.items() if not licence_of(part.provenance).text]
    if not without:
        raise UserError(f"{checkpoint}: the licence of every component is recorded already; omit --licence")
    named = {
        name: dataclasses.replace(manifest.components[name], provenance=part.provenance | {"licence": licence})
        for name, part in manifest.components.items()
        if name in without
    }
    return dataclasses.replace(manifest, components=manifest.components | named)


def make_card(checkpoint: Path, *, licence: str | None = None, sheet: Path | None = None) -> None:
    """Write the model card of a checkpoint; its weights are not touched.

    Args:
        checkpoint: the checkpoint's directory.
        licence: licence to record for the components that have none, as the hub names it, e.g. `apache-2.0`.
        sheet: contact sheet to show, a PNG; it is copied into the checkpoint.

    Raises:
        UserError: no checkpoint; a card that the user edited; a licence that is no name of one, or that would replace a
            recorded one; or files that cannot be written.
    """
    manifest = read_manifest(checkpoint)
    if not own_card_in(checkpoint):
        raise UserError(f"{checkpoint / CARD}: was edited, so it is not replaced; remove it to get a new one")
    if licence is not None:
        manifest = with_licence(manifest, licence, checkpoint)
    if sheet is not None:  # it may be refused, so it comes before the manifest
        add_sheet(checkpoint, sheet)
    if licence is not None:
        write_bytes(checkpoint / MANIFEST, manifest.to_bytes())
    write_card(checkpoint, manifest, parameter_counts(checkpoint, manifest.components))
    print(f"{checkpoint / CARD}: written")
