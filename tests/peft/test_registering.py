"""How the adapter type comes into PEFT's registry."""

import pickle

from blocked import python
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from clm_kernels.peft import ClmConfig, ClmModel
from clm_kernels.peft.registering import peft_type, register


def test_it_is_registered_once():
    register(ClmConfig, ClmModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["CLM"] is ClmConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.CLM] is ClmModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["CLM"] == ClmModel.prefix == "clm_"


def test_the_name_is_a_member_like_others():
    member = peft_type()
    assert member is PeftType("CLM") is PeftType["CLM"] is PeftType.CLM is pickle.loads(pickle.dumps(member))
    assert list(PeftType).count(member) == 1 and member == "CLM" and member.name == member.value == "CLM"
    assert len(PeftType) == len(set(PeftType)) == len(PeftType.__members__)


def test_without_peft_it_says_what_to_install():
    run = python("import clm_kernels.peft", ["peft"])
    assert 'NotInstalled: clm_kernels.peft: the package peft is needed: pip install "clm-kernels[lora]"' in run.stderr
