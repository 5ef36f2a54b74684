"""`python -m convert card`: write the model card of a checkpoint that has none, or has an older one."""

import dataclasses
from pathlib import Path

from show1_jax.checkpoints.arrays import parameter_counts
from show1_jax.checkpoints.cards.licences import check_licence, licence_of
from show1_jax.checkpoints.cards.model_card import add_sheet, own_card_in, write_card
from show1_jax.checkpoints.manifest import CARD, MANIFEST, read_manifest
from show1_jax.errors import UserError
from show1_jax.files import write_bytes


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
        check_licence(licence)
        without = [name for name, part in manifest.components.items() if not licence_of(part.provenance).text]
        if not without:
            raise UserError(f"{checkpoint}: the licence of every component is recorded already; omit --licence")
        components = {
            name: dataclasses.replace(part, provenance={**part.provenance, "licence": licence})
            if name in without
            else part
            for name, part in manifest.components.items()
        }
        manifest = dataclasses.replace(manifest, components=components)
    if sheet is not None:  # it may be refused, so it comes before the manifest
        add_sheet(checkpoint, sheet)
    if licence is not None:
        write_bytes(checkpoint / MANIFEST, manifest.to_bytes())
    write_card(checkpoint, manifest, parameter_counts(checkpoint, manifest.components))
    print(f"{checkpoint / CARD}: written")
