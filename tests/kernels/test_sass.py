"""Counting in machine code, on short listings written in the form of `nvdisasm -c`."""

import pytest

from maya.kernels.sass import Code, Instruction, Listing

# A loop over tiles around a loop over depth, as in a product with an epilogue. A rare case stands behind the
# end of the kernel and jumps back, and a trap ends the listing.
PRODUCT = """
	.section	.text.product_kernel,"ax",@progbits
	.sectionflags	@"SHF_BARRIERS=1"
product_kernel:
.text.product_kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, desc[UR8][R2.64] ;
.L_x_0:
        /*0020*/              @!P1 BRA `(.L_x_4) ;
.L_x_1:
        /*0030*/                   IMAD.MOV.U32 R9, RZ, RZ, RZ ;
.L_x_2:
        /*0040*/                   DEPBAR.LE SB0, 0x2 ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0070*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0080*/                   LDGSTS.E.BYPASS.128 [R21], desc[UR10][R22.64], P4 ;
        /*0090*/               @P2 LDG.E.U16 R11, desc[UR10][R12.64] ;
        /*00a0*/               @P0 BRA `(.L_x_2) ;
        /*00b0*/                   DEPBAR.LE SB0, 0x0 ;
        /*00c0*/                   STG.E.U16 desc[UR10][R12.64], R11 ;
        /*00d0*/                   STG.E.128 desc[UR10][R12.64+0x10], R4 ;
        /*00e0*/               @P3 BRA `(.L_x_0) ;
        /*00f0*/                   EXIT ;
.L_x_4:
        /*0100*/                   STL [R1], R4 ;
        /*0110*/                   BRA `(.L_x_1) ;
.L_x_5:
        /*0120*/                   BRA `(.L_x_5);
        /*0130*/                   NOP;
.L_x_6:
"""
# Asking a barrier in shared memory again and again, inside a loop: no loop of its own.
POLL = """
.L_x_0:
        /*0000*/                   DEPBAR.LE SB2, 0x36 ;
.L_x_1:
        /*0010*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   UTMALDG.2D [UR8], [UR4], desc[UR6] ;
        /*0040*/                   BRA P1, `(.L_x_0) ;
        /*0050*/                   EXIT ;
"""
# The last branch of a far loop may be a call that never returns, around a jump over it.
FAR = """
        /*0000*/                   S2R R1, SR_TID.X ;
.L_x_0:
        /*0010*/                   FADD R1, R1, R1 ;
        /*0020*/              @!P5 CALL.REL.NOINC `(.L_x_1) ;
        /*0030*/                   BRA `(.L_x_0) ;
.L_x_1:
        /*0040*/                   EXIT ;
"""


def test_loops_are_counted_by_their_depth() -> None:
    code = Listing.of(PRODUCT)
    assert [(x.depth, x.innermost) for x in code.loops] == [(1, False), (2, True)]
    # The rare case belongs to the outer loop. The trap is not a loop.
    assert [x.instructions for x in code.loops] == [15, 7]
    assert code.main_loop is code.loops[1]
    assert code.whole.instructions == 20 and code.whole.depth == 0


def test_loads_stores_and_waits_are_counted() -> None:
    code = Listing.of(PRODUCT)
    whole, inner = code.whole, code.main_loop
    assert (whole.half_loads, whole.half_stores, whole.wide_loads, whole.wide_stores) == (1, 1, 1, 1)
    assert (inner.half_loads, inner.half_stores, inner.wide_loads, inner.wide_stores) == (1, 0, 0, 0)
    assert (whole.synchronous_loads, inner.synchronous_loads, inner.prefetches) == (2, 1, 1)
    assert (whole.waits, inner.waits, inner.product_waits) == ((2, 0), (2,), (1,))
    assert (whole.spills, inner.spills, inner.barriers) == (1, 0, 1)
    assert inner.count("HGMMA") == 1 and inner.count("LDG") == 1 and inner.count("LDG", "64") == 0


def test_polling_is_no_loop() -> None:
    code = Listing.of(POLL)
    assert [x.instructions for x in code.loops] == [5]
    assert code.main_loop.innermost and code.main_loop.prefetches == 1 and not code.main_loop.waits


def test_a_loop_may_end_with_a_call() -> None:
    assert Listing.of(FAR).main_loop == Code(
        (
            Instruction("FADD", "R1, R1, R1"),
            Instruction("CALL.REL.NOINC", "`(.L_x_1)", "!P5"),
            Instruction("BRA", "`(.L_x_0)"),
        ),
        depth=1,
    )


def test_listings_without_code_or_loops_are_refused() -> None:
    with pytest.raises(ValueError, match="no instructions"):
        Listing.of(".headerflags\n")
    with pytest.raises(ValueError, match="no loop"):
        _ = Listing.of("        /*0000*/                   EXIT ;\n").main_loop
