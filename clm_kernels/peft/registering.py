"""Enters this adapter type into PEFT's registry, whose names are an enum."""

from __future__ import annotations

from typing import Any

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME, PREFIX = "clm", "clm_"


def peft_type() -> PeftType:
    """``PeftType.CLM``, which is added to the enum the first time: `register_peft_method` takes no other names."""
    name = NAME.upper()
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_, member._value_ = name, name
        member.__objclass__, member._sort_order_ = PeftType, len(PeftType)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        type.__setattr__(PeftType, name, member)
    return PeftType[name]


def register(config_class: Any, model_class: Any) -> None:
    """Enters the classes, once: a second time changes nothing."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if peft_type() not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME, config_cls=config_class, model_cls=model_class, prefix=PREFIX)
