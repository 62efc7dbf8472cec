/* Instruction streams for the vendor's disassembler: FOLDER/NAME.bin, and NAME.txt with
 * the operations in them, a line each. --names: the programs' names instead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/aie/aie.h"
#include "workers/npu/sequence.h"
#include "workers/npu/stream.h"

static FILE *create(const char *folder, const char *name, const char *ending)
{
	char path[512];

	snprintf(path, sizeof path, "%s/%s.%s", folder, name, ending);
	FILE *f = fopen(path, "we");
	if (!f) {
		perror(path);
		exit(1);
	}
	return f;
}

/* Each operation as aiebu-dump -d prints it, but for the spaces. */
static void print_op(FILE *f, const struct gp_stream_op *op)
{
	switch (op->code) {
	case GP_STREAM_WRITE:
		fprintf(f, "XAIE_IO_WRITE @0x%x, 0x%x\n", op->address, op->value);
		break;
	case GP_STREAM_BLOCK_WRITE:
		fprintf(f, "XAIE_IO_BLOCKWRITE @0x%x, [%u]\n", op->address, op->n_words);
		for (uint32_t i = 0; i < op->n_words; i++)
			fprintf(f, "XAIE_IO_BLOCKWRITE.%u 0x%x\n", i, op->words[i]);
		break;
	case GP_STREAM_MASK_WRITE:
		fprintf(f, "XAIE_IO_MASKWRITE @0x%x, 0x%x(), 0x%x\n", op->address, op->mask, op->value);
		break;
	case GP_STREAM_MASK_POLL:
		fprintf(f, "XAIE_IO_MASKPOLL @0x%x, 0x%x()==0x%x\n", op->address, op->mask, op->value);
		break;
	case GP_STREAM_SYNC:
		fprintf(f, "XAIE_IO_CUSTOM_OP_TCT R[%u]+%u, C[%u]+%u, #DMA_%s, %u\n", op->row, op->rows,
		        op->column, op->columns, op->to_array ? "MM2S" : "S2MM", op->channel);
		break;
	case GP_STREAM_PATCH:
		fprintf(f, "XAIE_IO_CUSTOM_OP_DDR_PATCH @0x%x, #%u, +0x%llx\n", op->address, op->arg,
		        (unsigned long long)op->arg_offset);
		break;
	}
}

static void write_stream(const char *folder, const char *name, const uint32_t *words, size_t n)
{
	FILE *f = create(folder, name, "bin");
	struct gp_stream_reader r;
	struct gp_stream_op op;
	bool good = fwrite(words, 4, n, f) == n;

	good &= fclose(f) == 0;
	f = create(folder, name, "txt");
	int rc = gp_stream_open(&r, words, n);
	while (rc == 0 && (rc = gp_stream_next(&r, &op)) == 1) {
		print_op(f, &op);
		rc = 0;
	}
	if (fclose(f) || !good || rc) {
		fprintf(stderr, "%s: %s\n", name, rc ? gp_error() : "not written");
		exit(1);
	}
}

static void write_products(const char *folder)
{
	uint32_t words[GP_NPU_SEQUENCE_WORDS], n;
	char name[64];

	for (int form = 0; form < GP_AIE_FORMS; form++)
		for (uint32_t size = 1; size <= 3; size++) {
			const struct gp_npu_dispatch d = { .form = (enum gp_aie_form)form, .slices = 5 * size,
				.row_blocks = gp_aie_forms[form].m == 1 ? 1 : size, .out_blocks = 7 * size };
			if (gp_npu_sequence(&d, words, &n)) {
				fprintf(stderr, "%s\n", gp_error());
				exit(1);
			}
			snprintf(name, sizeof name, "%s-%u", gp_aie_forms[form].name, size);
			write_stream(folder, name, words, n);
		}
}

static void write_every_operation(const char *folder)
{
	static const uint32_t data[] = { 1, 0xffffffff, 0x12345678 };
	static const uint32_t bd[] = { 64, 0, 0, 0, 0x80000000, 0, 0, 0x2000000 };
	static const struct gp_stream_op ops[] = {
		{ .code = GP_STREAM_WRITE, .address = 0x2100400, .value = 0xdeadbeef },
		{ .code = GP_STREAM_BLOCK_WRITE, .address = 0x4200400, .words = data, .n_words = 3 },
		{ .code = GP_STREAM_MASK_WRITE, .address = 0x1d200, .value = 0xf00, .mask = 0x1f00 },
		{ .code = GP_STREAM_MASK_POLL, .address = 0x1d228, .value = 0, .mask = 0xc },
		{ .code = GP_STREAM_SYNC, .column = 2, .columns = 1, .rows = 1, .to_array = true },
		{ .code = GP_STREAM_SYNC, .column = 3, .columns = 1, .rows = 1, .channel = 1 },
		/* The vendor's assembler wants a patch's descriptor to be written before. */
		{ .code = GP_STREAM_BLOCK_WRITE, .address = 0x601d000, .words = bd, .n_words = 8 },
		{ .code = GP_STREAM_PATCH, .address = 0x601d004, .arg = 4, .arg_offset = 0x12345678 },
	};
	uint32_t words[128];
	struct gp_stream s;
	size_t n;

	gp_stream_begin(&s, words, 128);
	for (size_t i = 0; i < GP_ARRAY_LEN(ops); i++)
		gp_stream_put(&s, &ops[i]);
	if (gp_stream_end(&s, &n))
		exit(1);
	write_stream(folder, "every-operation", words, n);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	if (strcmp(argv[1], "--names") == 0) {
		for (int form = 0; form < GP_AIE_FORMS; form++)
			puts(gp_aie_forms[form].name);
		return 0;
	}
	write_products(argv[1]);
	write_every_operation(argv[1]);
	return 0;
}
