#!/usr/bin/env python3
"""Prints the MLIR of one of the NPU's programs: which tile kernel runs where, and how data
is routed between host, memory tiles and compute tiles (aie.h draws it). What is streamed,
and how much, is not in it: gempipe writes the instructions itself.

  design.py FORM            for the toolchain (Xilinx/mlir-aie)
  design.py FORM --generic  in MLIR's generic form, which any mlir-opt parses with
                            --allow-unregistered-dialect, once its func.call are
                            called otherwise: it does not know who holds symbols
  design.py --sizes         FORM x w y memory-tile-bytes compute-tile-bytes, a line a form
"""
import sys

COLUMNS = ROWS = 4
FIRST_ROW = 2               # of compute tiles: 0 is the shim, 1 the memory tile
TILE_BYTES, STACK_BYTES, MEMORY_BYTES = 65536, 4096, 524288
FOREVER = 2**32 - 1


class Form:
    """Bytes of an x, w and y tile as kernels/aie/aie.h has them."""

    def __init__(self, kernel, x, w, y, y_depth, deals):
        self.kernel, self.x, self.w, self.y = kernel, x, w, y
        self.y_depth = y_depth      # buffers of y in a compute tile
        self.deals = deals          # GEMV: w is dealt out to the rows, x is a column's own

    def compute_bytes(self):
        w = self.w // ROWS if self.deals else self.w
        return 2 * (self.x + w) + self.y_depth * self.y + STACK_BYTES

    def memory_bytes(self):
        return 2 * (self.x + self.w + ROWS * self.y)


FORMS = {
    "gemm-int4-32x256x64": Form("gp_aie_gemm_int4", 8384, 9472, 8192, 2, False),
    "gemm-bf16-64x64x64": Form("gp_aie_gemm_bf16", 8256, 8192, 16384, 1, False),
    "gemv-int4-1x256x64": Form("gp_aie_gemv_int4", 576, 9472, 64, 2, True),
}


def words(n_bytes):
    return f"memref<{n_bytes // 4}xi32>"


class Printer:
    """The operations that a program needs, in the dialect's own form or the generic one."""

    def __init__(self, generic):
        self.generic, self.lines, self.indent, self.count = generic, [], 0, 0

    def line(self, own, generic):
        self.lines.append("  " * self.indent + (generic if self.generic else own))

    def fresh(self):
        self.count += 1
        return f"%v{self.count}"

    def open(self, own, generic):
        self.line(own, generic)
        self.indent += 1

    def close(self, own, generic):
        self.indent -= 1
        self.line(own, generic)

    def device(self):
        self.open("module {", '"builtin.module"() ({')
        # 4: npu1, as the dialect numbers devices
        self.open("aie.device(npu1) {", '"aie.device"() ({')

    def end_device(self):
        self.line("", '"aie.end"() : () -> ()')
        self.close("}", "}) {device = 4 : i32} : () -> ()")
        self.close("}", "}) : () -> ()")

    def tile(self, name, column, row):
        # What the instructions (stream_tasks.c) tell shim tiles to send tokens as.
        sends = ", controller_id = #aie.packet_info<pkt_type = 0, pkt_id = 15>" if row == 0 else ""
        own = f" {{{sends[2:]}}}" if sends else ""
        self.line(f"{name} = aie.tile({column}, {row}){own}",
                  f'{name} = "aie.tile"() {{col = {column} : i32, row = {row} : i32{sends}}} '
                  ": () -> index")

    def function(self, name, types):
        self.line(f"func.func private @{name}({', '.join(types)})",
                  f'"func.func"() ({{}}) {{function_type = ({", ".join(types)}) -> (), '
                  f'sym_name = "{name}", sym_visibility = "private"}} : () -> ()')

    def fifo(self, name, source, sinks, n_bytes, depths):
        own_depth = f"{depths[0]} : i32" if len(set(depths)) == 1 else \
            "[" + ", ".join(map(str, depths)) + "]"
        depth = f"{depths[0]} : i32" if len(set(depths)) == 1 else \
            "[" + ", ".join(f"{d} : i32" for d in depths) + "]"
        kind = f"!aie.objectfifo<{words(n_bytes)}>"
        none = ", ".join("[]" for _ in sinks)
        self.line(f"aie.objectfifo @{name}({source}, {{{', '.join(sinks)}}}, {own_depth}) : {kind}",
                  f'"aie.objectfifo"({", ".join([source] + sinks)}) {{sym_name = "{name}", '
                  f"elemNumber = {depth}, elemType = {kind}, "
                  f"dimensionsToStream = #aie<bd_dim_layout_array[]>, "
                  f"dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[{none}]>, "
                  f"disable_synchronization = false, plio = false, via_DMA = false}} : "
                  f"({', '.join(['index'] * (1 + len(sinks)))}) -> ()")

    def link(self, sources, sinks, source_offsets, sink_offsets):
        def at(names):
            return "[" + ", ".join("@" + n for n in names) + "]"

        def own(offsets):
            return "[" + ", ".join(map(str, offsets)) + "]"

        def generic(offsets):
            return "[" + ", ".join(f"{o} : i64" for o in offsets) + "]"

        self.line(f"aie.objectfifo.link {at(sources)} -> {at(sinks)}"
                  f"({own(source_offsets)} {own(sink_offsets)})",
                  f'"aie.objectfifo.link"() {{fifoIns = {at(sources)}, fifoOuts = {at(sinks)}, '
                  f"src_offsets = {generic(source_offsets)}, "
                  f"dst_offsets = {generic(sink_offsets)}}} : () -> ()")

    def constant(self, value):
        v = self.fresh()
        self.line(f"{v} = arith.constant {value} : index",
                  f'{v} = "arith.constant"() {{value = {value} : index}} : () -> index')
        return v

    def loop(self, first, end, step):
        v = self.fresh()
        self.open(f"scf.for {v} = {first} to {end} step {step} {{",
                  f'"scf.for"({first}, {end}, {step}) ({{')
        if self.generic:
            self.lines.append("  " * (self.indent - 1) + f"^bb0({v}: index):")

    def end_loop(self):
        self.line("", '"scf.yield"() : () -> ()')
        self.close("}", "}) : (index, index, index) -> ()")

    def acquire(self, fifo, produces, n_bytes):
        view, v, kind = self.fresh(), self.fresh(), words(n_bytes)
        sub = f"!aie.objectfifosubview<{kind}>"
        self.line(f"{view} = aie.objectfifo.acquire @{fifo}({'Produce' if produces else 'Consume'}, "
                  f"1) : {sub}",
                  f'{view} = "aie.objectfifo.acquire"() {{objFifo_name = @{fifo}, '
                  f"port = {0 if produces else 1} : i32, size = 1 : i32}} : () -> {sub}")
        self.line(f"{v} = aie.objectfifo.subview.access {view}[0] : {sub} -> {kind}",
                  f'{v} = "aie.objectfifo.subview.access"({view}) {{index = 0 : i32}} : '
                  f"({sub}) -> {kind}")
        return v

    def release(self, fifo, produces):
        self.line(f"aie.objectfifo.release @{fifo}({'Produce' if produces else 'Consume'}, 1)",
                  f'"aie.objectfifo.release"() {{objFifo_name = @{fifo}, '
                  f"port = {0 if produces else 1} : i32, size = 1 : i32}} : () -> ()")

    def first_word(self, buffer, zero, n_bytes):
        """As an index: an x tile's number of slices."""
        word, v, kind = self.fresh(), self.fresh(), words(n_bytes)
        self.line(f"{word} = memref.load {buffer}[{zero}] : {kind}",
                  f'{word} = "memref.load"({buffer}, {zero}) : ({kind}, index) -> i32')
        self.line(f"{v} = arith.index_cast {word} : i32 to index",
                  f'{v} = "arith.index_cast"({word}) : (i32) -> index')
        return v

    def call(self, name, arguments, types):
        self.line(f"func.call @{name}({', '.join(arguments)}) : ({', '.join(types)}) -> ()",
                  f'"func.call"({", ".join(arguments)}) {{callee = @{name}}} : '
                  f"({', '.join(types)}) -> ()")

    def core(self, tile):
        v = self.fresh()
        self.open(f"{v} = aie.core({tile}) {{", f'{v} = "aie.core"({tile}) ({{')

    def end_core(self, library):
        self.line("aie.end", '"aie.end"() : () -> ()')
        tail = f'{{link_with = "{library}", stack_size = {STACK_BYTES} : i32}}'
        self.close("} " + tail, "}) " + tail + " : (index) -> index")


def tile(column, row):
    return f"%tile_{column}_{row}"


def compute(column, row):
    return tile(column, FIRST_ROW + row)


def routes(p, form):
    """Shim channels are given out in this order: x and w in, y out (sequence.c)."""
    part = form.w // ROWS
    for c in range(COLUMNS):
        own = [compute(c, r) for r in range(ROWS)]
        row = [compute(other, c) for other in range(COLUMNS)]
        p.fifo(f"x_in_{c}", tile(c, 0), [tile(c, 1)], form.x, [2, 2])
        p.fifo(f"x_{c}", tile(c, 1), own if form.deals else row, form.x, [2, 2, 2, 2, 2])
        p.link([f"x_in_{c}"], [f"x_{c}"], [], [])
        p.fifo(f"w_in_{c}", tile(c, 0), [tile(c, 1)], form.w, [2, 2])
        if form.deals:
            for r in range(ROWS):
                p.fifo(f"w_{c}_{r}", tile(c, 1), [own[r]], part, [2, 2])
            p.link([f"w_in_{c}"], [f"w_{c}_{r}" for r in range(ROWS)], [],
                   [r * part // 4 for r in range(ROWS)])
        else:
            p.fifo(f"w_{c}", tile(c, 1), own, form.w, [2, 2, 2, 2, 2])
            p.link([f"w_in_{c}"], [f"w_{c}"], [], [])
        for r in range(ROWS):
            p.fifo(f"y_{c}_{r}", own[r], [tile(c, 1)], form.y, [form.y_depth, 2])
        p.fifo(f"y_out_{c}", tile(c, 1), [tile(c, 0)], ROWS * form.y, [2, 2])
        p.link([f"y_{c}_{r}" for r in range(ROWS)], [f"y_out_{c}"],
               [r * form.y // 4 for r in range(ROWS)], [])


def core(p, form, column, row):
    """For ever: a y tile, filled by as many pairs of tiles as the first x tile says."""
    x = f"x_{column if form.deals else row}"
    w = f"w_{column}_{row}" if form.deals else f"w_{column}"
    w_bytes = form.w // ROWS if form.deals else form.w
    types = [words(form.x), words(w_bytes), words(form.y)]

    def pair(y):
        x_tile = p.acquire(x, False, form.x)
        w_tile = p.acquire(w, False, w_bytes)
        p.call(form.kernel, [x_tile, w_tile, y], types)
        return x_tile

    def give():
        p.release(x, False)
        p.release(w, False)

    p.core(compute(column, row))
    zero, one, end = p.constant(0), p.constant(1), p.constant(FOREVER)
    p.loop(zero, end, one)
    y = p.acquire(f"y_{column}_{row}", True, form.y)
    slices = p.first_word(pair(y), zero, form.x)
    give()
    p.loop(one, slices, one)
    pair(y)
    give()
    p.end_loop()
    p.release(f"y_{column}_{row}", True)
    p.end_loop()
    p.end_core(form.kernel + ".o")


def design(form, generic):
    p = Printer(generic)
    w_bytes = form.w // ROWS if form.deals else form.w
    assert form.compute_bytes() <= TILE_BYTES and form.memory_bytes() <= MEMORY_BYTES
    p.device()
    for c in range(COLUMNS):
        for r in range(FIRST_ROW + ROWS):
            p.tile(tile(c, r), c, r)
    p.function(form.kernel, [words(form.x), words(w_bytes), words(form.y)])
    routes(p, form)
    for c in range(COLUMNS):
        for r in range(ROWS):
            core(p, form, c, r)
    p.end_device()
    return "\n".join(line for line in p.lines if line.strip()) + "\n"


def main(arguments):
    if arguments == ["--sizes"]:
        for name, f in FORMS.items():
            print(name, f.x, f.w, f.y, f.memory_bytes(), f.compute_bytes())
        return 0
    generic = "--generic" in arguments
    names = [a for a in arguments if a != "--generic"]
    if len(names) != 1 or names[0] not in FORMS:
        sys.stderr.write(f"design.py: say one of {', '.join(FORMS)}, or --sizes\n")
        return 2
    sys.stdout.write(design(FORMS[names[0]], generic))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
