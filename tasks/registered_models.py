"""The loader that MLflow artifacts of earlier versions name; it is now in `tasks.registry.registered_models`."""

from tasks.registry.registered_models import _load_pyfunc

__all__ = ["_load_pyfunc"]
