# ruff: noqa: E501  # lines of a compiler
"""The numbers that are read from a program's text, on a text whose numbers are known."""

import pytest

from studies.hlo import Program

TPU = """HloModule jit_several, is_scheduled=true

%fused_computation (param_0: u8[50,12]) -> u8[4,12] {
  %param_0 = u8[50,12]{1,0:T(8,128)(4,1)} parameter(0)
  ROOT %slice.1 = u8[4,12]{1,0:T(8,128)(4,1)} slice(%param_0), backend_config={"estimated_cycles":"99999"}
}

%inner_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %add.1 = f32[8]{0:T(128)} add(%p, %p), backend_config={"estimated_cycles":"10"}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%p, %add.1)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[]{:T(512)} compare(%p, %p), direction=LT, backend_config={"estimated_cycles":"7"}
}

%cheap (p: f32[8]) -> f32[8] {
  ROOT %negate.1 = f32[8]{0:T(128)} negate(%p), backend_config={"estimated_cycles":"5"}
}

%dear (p: f32[8]) -> f32[8] {
  ROOT %sine.1 = f32[8]{0:T(128)} sine(%p), backend_config={"estimated_cycles":"50"}
}

%body (arg: (s32[], f32[8], u8[50,12])) -> (s32[], f32[8], u8[50,12]) {
  %arg = (s32[]{:T(128)}, f32[8]{0:T(128)}, /*index=2*/u8[50,12]{1,0:T(8,128)(4,1)}) parameter(0)
  %fusion.1 = (f32[8]{0:T(128)S(1)}, u8[4,12]{1,0}) fusion(%arg), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(several)/gather"}, backend_config={"estimated_cycles":"1000"}
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%arg), condition=%condition, body=%inner_body, backend_config={"known_trip_count":{"n":"3"}}
  %conditional.1 = f32[8]{0:T(128)} conditional(%arg, %arg, %arg), branch_computations={%cheap, %dear}
  %all-reduce.1 = (f32[8]{0:T(128)}, bf16[2,3]{1,0}) all-reduce(%fusion.1, %arg), replica_groups={{0,1}}, to_apply=%cheap
  %all-reduce-start.2 = f32[4]{0:T(128)} all-reduce-start(%fusion.1), to_apply=%cheap
  %all-reduce-done.2 = f32[4]{0:T(128)} all-reduce-done(%all-reduce-start.2)
  ROOT %tuple.2 = (s32[]{:T(128)}, f32[8]{0:T(128)}, u8[50,12]{1,0}) tuple(%arg, %conditional.1, %arg)
}

ENTRY %main.5 (a: u8[50,12], b: s32[]) -> (s32[], f32[8], u8[50,12]) {
  %a = u8[50,12]{0,1:T(8,128)(4,1)} parameter(0)
  %copy.1 = u8[50,12]{1,0:T(8,128)(4,1)} copy(%a), metadata={op_name="split"}, backend_config={"estimated_cycles":"600"}
  ROOT %while.2 = (s32[]{:T(128)}, f32[8]{0:T(128)}, u8[50,12]{1,0}) while(%copy.1), condition=%condition, body=%body
}
"""

GPU = """HloModule jit_step

ENTRY %main.1 (a: f32[2,4]) -> f32[2,4] {
  %a = f32[2,4]{1,0} parameter(0)
  %conv.1 = (f32[2,4]{1,0}, u8[0]{0}) custom-call(%a, %a), custom_call_target="__cudnn$convBiasActivationForward"
  %get-tuple-element.1 = f32[2,4]{1,0} get-tuple-element(%conv.1), index=0
  %wrapped_transpose = f32[4,2]{1,0} fusion(%get-tuple-element.1), kind=kInput, calls=%x
  ROOT %bitcast.1 = f32[2,4]{1,0} bitcast(%wrapped_transpose)
}
"""


@pytest.fixture(scope="module")
def program():
    return Program(TPU)


def test_an_update_is_one_pass_through_the_loop_whose_count_is_not_known(program):
    assert program.loop.name == "while.2"
    assert program.cycles == 1000 + 3 * 10 + 50  # the loop three times, the dearer branch, nothing inside a fusion
    assert program.entry_cycles == 600


def test_the_dearest_instructions_have_their_sources(program):
    cycles, first = program.dearest(1)[0]
    assert (cycles, first.opcode, first.source) == (1000, "fusion", "jit(several)/gather")


def test_collectives_are_counted_once_each_with_their_bytes(program):
    assert program.collectives == {"all-reduce": {"count": 2, "bytes": 8 * 4 + 6 * 2 + 4 * 4}}


def test_only_what_makes_an_array_of_that_size_is_a_copy(program):
    assert [x.name for x in program.over(50 * 12)] == ["copy.1"]


def test_a_pass_over_the_data_set_in_several_pieces_is_found():
    pieces = GPU.replace("f32[4,2]{1,0} fusion", "(u8[50,8]{1,0}, u8[50,4]{1,0}) fusion")
    assert [x.name for x in Program(pieces).over(50 * 12)] == ["wrapped_transpose"]


def test_a_program_without_such_a_loop_is_one_update():
    program = Program(GPU)
    assert (program.loop, program.entry_cycles) == (None, 0)
    assert (program.kernels(), program.convolutions()) == (2, 1)
