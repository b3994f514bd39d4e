"""An adapter straight into a PEFT model, without files.

PEFT builds the layers and sets the tensors by itself; what it is given is, bit for bit, what it would have read from
the directory. Checked besides, since PEFT does not: that the base model is the one that the adapter was trained on,
that every module is there, and that the model's shared A and B are the adapter's.
"""
from __future__ import annotations

import ctypes
import hashlib
import os
import warnings
from typing import Any, Dict, Optional, Tuple

from .adapter import TORCH_NAMES, Adapter, Source, read
from .errors import Conflict, Invalid

_DTYPES = {f"torch.{name}": dtype for dtype, name in TORCH_NAMES.items()}


def _sha256(tensor: Any) -> str:
    """Of the bytes of a tensor, rows one behind the other."""
    tensor = tensor.detach().cpu().contiguous()
    size = tensor.numel() * tensor.element_size()
    memory = (ctypes.c_char * size).from_address(tensor.data_ptr()) if size else b""
    return hashlib.sha256(memory).hexdigest()


def _layers(base: Any, adapter: Adapter) -> Dict[str, Any]:
    """The layers by name: before PEFT wraps them, or within what it wrapped."""
    found, missing = {}, []
    for name in adapter.modules:
        try:
            layer = base.get_submodule(name)
        except AttributeError:
            missing.append(name)
            continue
        found[name] = getattr(layer, "base_layer", layer)
    if missing:
        lines = "".join(f"\n  {name}" for name in missing)
        raise Invalid(f"matched {len(found)} of {len(found) + len(missing)} modules; missing in "
                      f"{type(base).__name__}:{lines}", "load the adapter onto the model class that it was trained on")
    return found


def _pin_check(layers: Dict[str, Any], adapter: Adapter) -> None:
    others, loaded = [], set()
    for name, layer in layers.items():
        pinned = adapter.pin.get(name)
        if pinned is None:
            continue
        dtype = _DTYPES.get(str(layer.weight.dtype), str(layer.weight.dtype))
        if dtype != pinned.dtype:
            loaded.add(f"{dtype} instead of {pinned.dtype}")
        elif tuple(layer.weight.shape) != pinned.shape or _sha256(layer.weight) != pinned.sha256:
            others.append(name)
    if others:
        lines = "".join(f"\n  {name}" for name in others)
        raise Conflict(f"this is not the base model that the adapter was trained on: {len(others)} of {len(layers)} "
                       f"weights differ:{lines}", "load that model, or give check_base=False")
    if loaded:
        warnings.warn(f"the base model is loaded as {', '.join(sorted(loaded))}: it was not compared with the one "
                      "that the adapter was trained on", stacklevel=3)


def _matrices(model: Any) -> Dict[str, Any]:
    """The A and B that all adapters of a PEFT model share, by PEFT's name of them; none where it has none yet."""
    found = {}
    for name in ("vera_A", "vera_B"):
        shared = getattr(model.base_model, name, None)
        if shared is not None and len(shared):
            found[name] = next(iter(shared.values()))
    return found


def _basis_check(model: Any, adapter: Adapter) -> None:
    """Are the model's A and B those of the adapter? With its own the first adapter has brought them, without them
    PEFT drew some, which depend on the machine and on all targeted layers."""
    import torch

    shared = _matrices(model)
    for name, wanted in adapter.basis.items():
        ours, stored = shared.get(name), adapter.tensors.get(f"base_model.{name}")
        if ours is None:
            continue
        if stored is not None:
            same = torch.equal(stored.torch().to(ours.device, ours.dtype), ours)
        else:
            same = _sha256(ours.to(getattr(torch, TORCH_NAMES[wanted.dtype]))) == wanted.sha256
        if not same:
            raise Conflict(f"{name} of this model is not the adapter's: PEFT keeps one for all adapters of a model, "
                           "and it differs between machines and sets of layers",
                           "load it onto a model of its own; train with save_projection=True to have it saved")


def _inject(model: Any, config: Any, adapter_name: str, autocast: bool) -> Tuple[Any, bool]:
    """The PEFT model with a fresh adapter in it, and whether it was none before."""
    import peft

    if isinstance(model, peft.PeftModel):
        model.add_adapter(adapter_name, config, autocast_adapter_dtype=autocast)
        return model, False
    base_name = config.base_model_name_or_path
    made = peft.get_peft_model(model, config, adapter_name=adapter_name, autocast_adapter_dtype=autocast)
    config.base_model_name_or_path = base_name
    return made, True


def _fill(model: Any, adapter: Adapter, adapter_name: str) -> None:
    import peft

    state = {name: tensor.torch() for name, tensor in adapter.tensors.items()}
    result = peft.set_peft_model_state_dict(model, state, adapter_name=adapter_name)
    missing = [key for key in result.missing_keys if "vera_lambda" in key and f".{adapter_name}" in key]
    wrong = [f"\n  {key} is not in the model" for key in result.unexpected_keys]
    wrong += [f"\n  {key} is not in the adapter" for key in missing]
    if wrong:
        raise Invalid(f"PEFT did not take all of the adapter:{''.join(wrong)}")


def load_adapter(model: Any, source: Source, repo: Optional["os.PathLike[str] | str"] = None, *,
                 adapter_name: str = "default", is_trainable: bool = False, check_base: bool = True,
                 autocast_adapter_dtype: bool = True) -> Any:
    """The model, a PEFT one or the base of one, with the adapter in it, as a PeftModel: what
    PeftModel.from_pretrained() or load_adapter() make of its directory. `source` and `repo` as for read().

    `check_base`: compare the weights in memory with those that the adapter's version recorded. The other options are
    PEFT's. On failure a base model has no trace of the adapter.
    """
    import peft

    adapter = read(source, repo)
    peft_before = isinstance(model, peft.PeftModel)
    layers = _layers(model.get_base_model() if peft_before else model, adapter)
    if check_base:
        _pin_check(layers, adapter)
    if peft_before:
        if adapter_name in model.peft_config:
            raise Invalid(f"the model has an adapter '{adapter_name}' already", "give another adapter_name")
        _basis_check(model, adapter)
    config = peft.PeftConfig.from_peft_type(**peft.PeftConfig.check_kwargs(**adapter.config))
    config.inference_mode = not is_trainable
    made, fresh = _inject(model, config, adapter_name, autocast_adapter_dtype)
    try:
        _fill(made, adapter, adapter_name)
        _basis_check(made, adapter)
    except BaseException:
        if fresh:
            made.unload()
        else:
            made.delete_adapter(adapter_name)
        raise
    if not is_trainable:
        made.eval()
    return made
