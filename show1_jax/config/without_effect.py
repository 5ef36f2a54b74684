"""Fields of released configuration files that change nothing, with reasons: one table for schedulers and networks.

Later releases of diffusers and transformers write fields that the original's releases (0.19.3 and 4.41.2) did not have,
and files contain fields of other classes. A field that no reader uses is ignored if a row of the table states that its
value has no effect; any other field is refused by name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from show1_jax.errors import shown, shown_name

Fields = Mapping[str, Any]
Predicate = Callable[[Any, Fields], bool]

DDPM, DDIM, DPM_SOLVER = "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"
PIXEL_UNET, LATENT_UNET, VAE = "pixel UNet", "latent UNet", "AutoencoderKL"
T5, CLIP = "T5 encoder", "CLIP text encoder"
CLIP_IMAGE, CLIP_MODEL = "CLIP image encoder", "CLIP"
_SCHEDULERS: Final = (DDPM, DDIM, DPM_SOLVER)
_NETWORKS: Final = (PIXEL_UNET, LATENT_UNET, VAE)
_ENCODERS: Final = (T5, CLIP, CLIP_IMAGE, CLIP_MODEL)


def _always(value: Any, settings: Fields) -> bool:
    return True


def _equal_to(*values: Any) -> Predicate:
    """Return a predicate that accepts some values, and null, which means a class's default."""
    return lambda value, settings: value is None or any(value == other for other in values)


def _off(value: Any, settings: Fields) -> bool:
    return value is None or value is False


def _zero(value: Any, settings: Fields) -> bool:
    return value is None or (isinstance(value, int | float) and value == 0)


def _empty(value: Any, settings: Fields) -> bool:
    return value is None or value in ({}, [], "")


def _with_switch_off(switch: str) -> Predicate:
    """Return a predicate that accepts any value if the setting `switch` is off."""
    return lambda value, settings: not settings.get(switch)


@dataclass(frozen=True)
class Rule:
    """A condition under which some fields have no effect.

    Attributes:
        files: kinds of the files that have the fields.
        fields: names of the fields, separated by blanks.
        has_no_effect: returns true if a value has no effect, given all settings of the file.
        reason: why such a value has no effect, or the effect of other values; it ends the error that refuses them.
    """

    files: tuple[str, ...]
    fields: str
    has_no_effect: Predicate
    reason: str


RULES: Final[tuple[Rule, ...]] = (
    # Schedulers
    Rule(
        _SCHEDULERS,
        "disable_corrector interpolation_type noise_sampler_seed original_inference_steps predict_x0 rho sigma_data "
        "sigma_max sigma_min sigma_schedule skip_prk_steps solver_p timestep_scaling timestep_type",
        _always,
        "a setting of other schedulers, which `from_config` copies",
    ),
    Rule(_SCHEDULERS, "rescale_betas_zero_snr", _off, "it changes the noise schedule"),
    Rule(
        (DDPM, DDIM),
        "euler_at_final final_sigmas_type flow_shift time_shift_type use_beta_sigmas use_dynamic_shifting "
        "use_exponential_sigmas use_flow_sigmas use_lu_lambdas",
        _always,
        "a setting of DPM-Solver, which this class does not read",
    ),
    Rule(
        (DPM_SOLVER,),
        "euler_at_final",
        lambda value, settings: _off(value, settings) or settings.get("solver_order") == 1,
        "it makes the last step first-order",
    ),
    Rule(
        (DPM_SOLVER,),
        "final_sigmas_type",
        lambda value, settings: value == "sigma_min",  # null would mean the class's default, which is now another
        "only 'sigma_min' ends the last step at timestep 0, as the original does; 'zero' ends it without any noise",
    ),
    Rule(
        (DPM_SOLVER,),
        "use_beta_sigmas use_exponential_sigmas use_flow_sigmas use_lu_lambdas",
        _off,
        "it replaces the steps of timestep_spacing",
    ),
    Rule(
        (DPM_SOLVER,), "flow_shift", _with_switch_off("use_flow_sigmas"), "it shifts the steps of use_flow_sigmas alone"
    ),
    Rule((DPM_SOLVER,), "use_dynamic_shifting", _off, "it makes the steps depend on the size"),
    Rule(
        (DPM_SOLVER,),
        "time_shift_type",
        _with_switch_off("use_dynamic_shifting"),
        "it says how use_dynamic_shifting shifts the steps",
    ),
    # Networks of diffusers
    Rule(_NETWORKS, "sample_size", _always, "the size is that of the input"),
    Rule(
        _NETWORKS,
        "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup",
        _always,
        "a setting of the training's moving average, which EMAModel.save_pretrained writes",
    ),
    Rule(_NETWORKS, "dropout", _zero, "it changes training"),
    Rule((PIXEL_UNET,), "downsample_padding", _always, "resnets resample here; only strided convolutions are padded"),
    Rule(
        (PIXEL_UNET,),
        "dual_cross_attention reverse_transformer_layers_per_block transformer_layers_per_block upcast_attention "
        "use_linear_projection",
        _always,
        "a setting of transformer blocks, and these attention blocks have none",
    ),
    Rule(
        (PIXEL_UNET,),
        "projection_class_embeddings_input_dim addition_time_embed_dim",
        _always,
        "the width of an embedding that only refused values of class_embed_type and addition_embed_type have",
    ),
    Rule(
        (PIXEL_UNET,),
        "num_class_embeds",
        lambda value, settings: value is None or settings.get("class_embed_type") is not None,
        "it adds a table of classes, unless class_embed_type is set",
    ),
    Rule((PIXEL_UNET,), "attention_type", _equal_to("default"), "other values add GLIGEN's layers"),
    # Settings of Show-1's class that diffusers' class of the same name fixes at these values.
    Rule((LATENT_UNET,), "addition_embed_type_num_heads", _always, "heads of addition_embed_type, which is refused"),
    Rule((LATENT_UNET,), "conv_in_kernel conv_out_kernel", _equal_to(3), "the class's only size"),
    Rule((LATENT_UNET,), "flip_sin_to_cos use_linear_projection", _equal_to(True), "the class always does this"),
    Rule((LATENT_UNET,), "freq_shift", _zero, "the class's only value"),
    Rule((LATENT_UNET,), "resnet_out_scale_factor", _equal_to(1), "the class's only factor"),
    Rule((LATENT_UNET,), "resnet_time_scale_shift attention_type", _equal_to("default"), "the class's only kind"),
    Rule((LATENT_UNET,), "time_embedding_type", _equal_to("positional"), "the class's only kind"),
    Rule((LATENT_UNET,), "transformer_layers_per_block", _equal_to(1), "the class's only number"),
    Rule((VAE,), "force_upcast", _always, "the type that a pipeline computes in; here it is a setting of the run"),
    Rule(
        (VAE,),
        "mid_block_add_attention use_post_quant_conv use_quant_conv",
        lambda value, settings: value is True,
        "only true keeps all layers",
    ),
    Rule((VAE,), "shift_factor", _zero, "only 0 leaves the latents unshifted"),
    # Text encoders
    Rule(
        _ENCODERS,
        "add_cross_attention architectures bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward "
        "cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping "
        "encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task "
        "forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty "
        "max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_labels "
        "num_return_sequences output_attentions output_hidden_states output_past output_scores pad_token_id prefix "
        "problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id "
        "suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings "
        "tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache "
        "xla_device",
        _always,
        "about generating text, about training, or about what a call returns; an encoder's states are the same",
    ),
    Rule(
        _ENCODERS,
        "attention_dropout classifier_dropout dropout dropout_rate gradient_checkpointing initializer_factor "
        "initializer_range",
        _always,
        "about training; text encoders are not trained here",
    ),
    Rule(_ENCODERS, "pruned_heads", _empty, "it removes attention heads"),
    Rule(
        (T5,),
        "n_positions num_decoder_layers scale_decoder_outputs",
        _always,
        "about the decoder, or not read by any code",
    ),
    Rule((CLIP, CLIP_IMAGE), "projection_dim", _always, "about the projection behind the states"),
    Rule((CLIP_MODEL,), "logit_scale_init_value", _always, "about training; cosines are not scaled here"),
)


def refused_fields(kind: str, rest: Fields, settings: Fields) -> Iterator[str]:
    """Yield one error for each field that is unknown, or has a value with an effect.

    Names that begin with an underscore are internal to the libraries, and are ignored. An unknown field that is null or
    false switches nothing on, and is ignored too.

    Args:
        kind: kind of the file, e.g. `VAE`, or a scheduler's class.
        rest: fields that no reader uses.
        settings: all fields of the file.
    """
    for name, value in sorted(rest.items()):
        if name.startswith("_"):
            continue
        row = next((row for row in RULES if kind in row.files and name in row.fields.split()), None)
        if row is None and not _off(value, settings):
            yield f"{shown_name(name)} = {shown(value)} is not supported: of this field only null and false are"
        elif row and not row.has_no_effect(value, settings):
            yield f"{name} = {shown(value)} is not supported: {row.reason}"
