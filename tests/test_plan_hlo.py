"""The reader of compiled programs against small ones written by hand, whose sizes one can derive in one's head."""

import pytest

from unet_jax.plan.estimate import padding_by_level
from unet_jax.plan.hlo import Buffer, Collective, Instruction, collectives, parse_entry, stage_of

HEAD = "HloModule jit_train_step, is_scheduled=true, entry_computation_layout={(f32[4]{0})->f32[4]{0}}\n\n"
CALLED = """%fused_computation (param_0: f32[64]) -> f32[64] {
  %param_0 = f32[64]{0} parameter(0)
  ROOT %negate.0 = f32[64]{0} negate(%param_0), backend_config={"estimated_cycles":"999"}
}

"""
TABLES = """FileNames
1 "/a/folder/steps.py"
2 "/a/folder/layers.py"

FunctionNames
1 "make_train_step.<locals>.train_step"
2 "max_pool"

FileLocations
1 {file_name_id=1 function_name_id=1 line=51 end_line=51 column=4 end_column=80}
2 {file_name_id=2 function_name_id=2 line=312 end_line=314 column=8 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
7 {file_location_id=2 parent_frame_id=1}


"""


def program(*lines, head=HEAD):
    return head + CALLED + "ENTRY %main.1 (x: f32[4]) -> f32[4] {\n" + "".join(f"  {x}\n" for x in lines) + "}\n"


def outputs_of(shapes):
    (instruction,) = parse_entry(program(f"%y.1 = {shapes} custom-call(%x, %x)"))
    assert instruction.opcode == "custom-call" and instruction.name == "y.1"
    return instruction.outputs


@pytest.mark.parametrize(
    ("shape", "num_bytes", "stored_bytes"),
    [
        # 8 images of 256x256 with 32 channels: 32 lanes of 128 are used, so four times the bytes are stored.
        ("bf16[8,256,256,32]{3,0,2,1:T(8,128)(2,1)}", 2**25, 134217728),
        # The images are in the lanes and the channels in the sublanes: 8 of 128 lanes, 32 of 8-row tiles.
        ("bf16[8,256,256,32]{0,3,2,1:T(8,128)(2,1)}", 2**25, 256 * 256 * 32 * 128 * 2),
        # Both of the two minor dimensions are filled up: 3 rows to 8, 130 lanes to 256.
        ("f32[5,3,130]{2,1,0:T(8,128)}", 5 * 3 * 130 * 4, 5 * 8 * 256 * 4),
        # A tile of one dimension; and one of more dimensions than the array has.
        ("f32[5,3,130]{2,1,0:T(256)}", 5 * 3 * 130 * 4, 5 * 3 * 256 * 4),
        ("f32[10]{0:T(8,128)}", 40, 512),
        # Full tiles waste nothing.
        ("f32[16,256]{1,0:T(8,128)}", 2**14, 2**14),
        # The order matters: 16 is minor now.
        ("f32[16,256]{0,1:T(8,128)}", 2**14, 256 * 128 * 4),
        # CPU and GPU programs have no tiles.
        ("f32[2,3,5]{2,1,0}", 120, 120),
        ("f32[2,3,5]", 120, 120),
        ("f32[]", 4, 4),
        ("f32[]{:T(128)}", 4, 4),
        ("f64[3]{0}", 24, 24),
        ("f16[3]{0}", 6, 6),
        ("s8[2,6]{1,0}", 12, 12),
        ("u8[2,6]{1,0}", 12, 12),
        ("pred[2,6]{1,0}", 12, 12),
        ("s32[2,6]{1,0}", 48, 48),
        ("u64[2]{0}", 16, 16),
        ("s8[4,256,256,3]{3,2,1,0:T(32,128)(4,1)}", 4 * 256 * 256 * 3, 4 * 256 * 256 * 128),
        ("f32[0]{0}", 0, 0),
    ],
)
def test_bytes_of_a_shape(shape, num_bytes, stored_bytes):
    assert outputs_of(shape) == (Buffer(num_bytes, stored_bytes, in_hbm=True),)


def test_buffers_in_the_chips_own_memory_are_not_in_hbm():
    assert outputs_of("f32[16,256]{1,0:T(8,128)S(1)}") == (Buffer(2**14, 2**14, in_hbm=False),)
    assert outputs_of("bf16[16,256]{1,0:T(8,128)(2,1)S(1)}") == (Buffer(2**13, 2**13, in_hbm=False),)
    assert outputs_of("f32[]{:S(1)}") == (Buffer(4, 4, in_hbm=False),)
    assert outputs_of("u32[]{:S(2)}") == (Buffer(4, 4, in_hbm=False),)  # a semaphore


def test_a_tuple_has_the_buffers_of_its_members():
    found = outputs_of(
        "(bf16[8,4]{1,0:T(8,128)(2,1)}, f32[]{:T(128)}, (s8[3]{0}, pred[]), f32[2]{0:T(128)S(1)}, /*index=5*/f32[4]{0})"
    )
    assert [b.num_bytes for b in found] == [64, 4, 3, 1, 8, 16]
    assert [b.stored_bytes for b in found] == [8 * 128 * 2, 4, 3, 1, 512, 16]
    assert [b.in_hbm for b in found] == [True, True, True, True, False, True]


def test_instructions_of_the_entry_in_order():
    text = program(
        '%x = f32[64]{0} parameter(0), metadata={op_name="batch.image"}',
        "%fusion.3 = f32[64]{0:T(128)} fusion(%x), kind=kLoop, calls=%fused_computation, "
        'metadata={op_name="jit(train_step)/jvp(UNet.packed)/down0/conv0/conv_general_dilated" stack_frame_id=7}, '
        'backend_config={"flag_configs":[],"estimated_cycles":"1234","iteration_bounds":["1"]}',
        'ROOT %add-remat = f32[64]{0} add(%fusion.3, %x), metadata={op_name="jit(train_step)/add" stack_frame_id=1}',
        head=HEAD + TABLES,
    )
    one, two, three = parse_entry(text)
    assert (one.name, one.opcode, one.cycles, one.source) == ("x", "parameter", 0, "")
    assert (two.name, two.opcode, two.cycles, two.source) == ("fusion.3", "fusion", 1234, "layers.py:312")
    assert two.op_name == "jit(train_step)/jvp(UNet.packed)/down0/conv0/conv_general_dilated"
    assert (three.name, three.opcode, three.cycles, three.source) == ("add-remat", "add", 0, "steps.py:51")
    assert [len(i.outputs) for i in (one, two, three)] == [1, 1, 1]


BODY = """%region_0.5 (arg: (s32[], f32[64])) -> (s32[], f32[64]) {
  %arg = (s32[], f32[64]{0}) parameter(0)
  %add.7 = f32[64]{0} add(%x, %x), metadata={op_name="jit(train_step)/while/body/down0/add"}, \
backend_config={"estimated_cycles":"50"}
}

%region_0.55 (arg: s32[]) -> pred[] {
  ROOT %compare = pred[] compare(%arg, %arg), backend_config={"estimated_cycles":"7"}
}

"""


def test_a_loop_counts_as_often_as_it_runs():
    loop = "%while.1 = (s32[], f32[64]{0}) while(%t), condition=%region_0.55, body=%region_0.5"
    text = program(loop, "ROOT %y = f32[64]{0} negate(%x)", head=HEAD + BODY)
    names = ["while.1", "arg", "add.7", "y"]
    for count in (1, 3):
        instructions = parse_entry(text, loop_count=count)
        assert [i.name for i in instructions] == names
        assert [i.cycles for i in instructions] == [0, 0, 50 * count, 0]
        assert instructions[2].outputs == (Buffer(256, 256, True),) * count
        assert stage_of(instructions[2]) == "down0"


def test_source_in_the_instruction_itself():
    line = (
        '%y = f32[4]{0} negate(%x), metadata={op_name="jit(f)/neg" source_file="/a/folder/unet.py" source_line=17 '
        "source_end_line=18}"
    )
    assert parse_entry(program(line))[0].source == "unet.py:17"


def test_a_frame_that_no_table_has_is_no_source():
    line = '%y = f32[4]{0} negate(%x), metadata={op_name="jit(f)/neg" stack_frame_id=5}'
    assert parse_entry(program(line))[0].source == ""
    assert parse_entry(program(line, head=HEAD + TABLES))[0].source == ""


def test_collectives_are_added_up_by_kind():
    text = program(
        "%a = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add",
        "%b = (f32[3]{0}, bf16[5]{0}) all-reduce(%x, %y), channel_id=2, to_apply=%add",
        "%c.1 = f32[100]{0} all-reduce-start(%x), channel_id=3, to_apply=%add",
        "%c.2 = f32[100]{0} all-reduce-done(%c.1)",
        "%d = s8[64]{0} all-gather(%x), dimensions={0}",
        "%e = f32[4]{0} all-to-all(%x), dimensions={0}",
        "%f = f32[4]{0} add(%x, %a)",
    )
    assert collectives(parse_entry(text)) == [
        Collective("all-gather", 1, 64),
        Collective("all-reduce", 3, 32 + (12 + 10) + 400),
        Collective("all-to-all", 1, 16),
    ]
    assert collectives(parse_entry(program("%y = f32[4]{0} negate(%x)"))) == []


def test_what_an_asynchronous_collective_keeps_of_its_operands_is_no_result():
    """The results of `all-gather-start` and `collective-permute-start` are (operands, results, contexts)."""
    text = program(
        "%a.1 = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), dimensions={0}",
        "%a.2 = f32[64]{0} all-gather-done(%a.1)",
        "%b.1 = ((f32[8]{0}, s8[2]{0}), (f32[64]{0}, s8[16]{0})) all-gather-start(%x, %y), dimensions={0}",
        "%c.1 = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)",
        "%d.1 = (f32[6]{0}, f32[6]{0}) collective-permute-start(%x)",
    )
    assert collectives(parse_entry(text)) == [
        Collective("all-gather", 2, 256 + (256 + 16)),
        Collective("collective-permute", 2, 24 + 24),
    ]


def test_collectives_in_a_loop_count_for_every_round():
    """By hand: three rounds of 64 float32 gathered, of 6 permuted, and of 8 reduced, beside one reduction outside."""
    body = """%region_0.5 (arg: f32[8]) -> f32[8] {
  %a.1 = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), dimensions={0}
  %c.1 = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  %d = f32[8]{0} all-reduce(%x), channel_id=1, to_apply=%add
}

"""
    loop = "%while.1 = f32[8]{0} while(%t), condition=%region_0.55, body=%region_0.5"
    text = program(loop, "ROOT %y = f32[8]{0} all-reduce(%x), to_apply=%add", head=HEAD + body)
    assert collectives(parse_entry(text, loop_count=3)) == [
        Collective("all-gather", 3, 3 * 4 * 64),
        Collective("all-reduce", 4, 4 * 4 * 8),
        Collective("collective-permute", 3, 3 * 4 * 6),
    ]


@pytest.mark.parametrize(
    ("op_name", "stage"),
    [
        ("jit(train_step)/jvp(UNet.packed)/down0/conv0/conv_general_dilated", "down0"),
        ("jit(train_step)/transpose(jvp(UNet.packed))/up12/norm1/reduce_sum", "up12"),
        ("jit(train_step)/jvp(UNet.packed)/checkpoint/center/conv1/add", "center"),
        ("jit(train_step)/jvp(UNet.packed)/head", "head"),
        ("jit(train_step)/jvp(UNet.packed)/reduce_window_max", None),
        ("jit(train_step)/upside/download0x/ahead", None),
        ("state.params['down0']['conv0']['kernel']", None),
        ("", None),
    ],
)
def test_stage_of(op_name, stage):
    assert stage_of(Instruction("y", "fusion", 0, op_name, "", ())) == stage


def test_padding_by_level_adds_what_each_resolution_writes_to_hbm():
    """Two levels: down0, up1 and the head are level 0, down1 and up0 level 1, the centre level 2."""

    def writes(stage, opcode, *buffers):
        return Instruction("y", opcode, 1, f"jit(f)/jvp(UNet.packed)/{stage}/conv0/add", "", buffers)

    found = padding_by_level(
        [
            writes("down0", "fusion", Buffer(1, 10, True), Buffer(2, 20, True), Buffer(1000, 1000, False)),
            writes("up1", "convolution", Buffer(4, 40, True)),
            writes("head", "fusion", Buffer(8, 80, True)),
            writes("down1", "fusion", Buffer(16, 160, True)),
            writes("up0", "fusion", Buffer(32, 320, True)),
            writes("center", "fusion", Buffer(64, 640, True)),
            writes("center", "get-tuple-element", Buffer(128, 128, True)),
            writes("center", "bitcast", Buffer(128, 128, True)),
            Instruction("z", "fusion", 1, "jit(f)/add", "", (Buffer(128, 128, True),)),
        ],
        2,
    )
    assert found == [
        {"level": 0, "num_bytes": 15, "stored_bytes": 150},
        {"level": 1, "num_bytes": 48, "stored_bytes": 480},
        {"level": 2, "num_bytes": 64, "stored_bytes": 640},
    ]
