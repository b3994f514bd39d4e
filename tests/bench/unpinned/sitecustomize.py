"""On PYTHONPATH for SGLang's server where there is no GPU: its processes ask for pinned memory whatever the device, and
torch has that beside a GPU only. Nothing else of SGLang or torch is changed."""
import torch


def unpinned(make):
    def wrapped(*arguments, **options):
        options.pop("pin_memory", None)
        return make(*arguments, **options)
    return wrapped


for name in ("tensor", "empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like"):
    setattr(torch, name, unpinned(getattr(torch, name)))
torch.Tensor.pin_memory = lambda tensor, *_arguments, **_options: tensor
