#include "kernels/isa.h"

void gp_kernels_init(struct gp_kernels *k, unsigned flags)
{
	const unsigned have = flags & gp_cpu_flags();

	*k = (struct gp_kernels){
		.name = gp_cpu_text(have),
		.matmul = gp_matmul_scalar,
		.lanes = 1,
		.quantize_q8 = gp_quantize_q8_scalar,
		.matmul_packed = gp_matmul_packed_scalar,
		.rms_norm = gp_rms_norm_scalar,
		.rope = gp_rope_scalar,
		.geglu = gp_geglu_scalar,
		.add = gp_add_scalar,
		.attention = gp_attention_scalar,
		.attention_merge = gp_attention_merge_scalar,
		.attention_out = gp_attention_out_scalar,
		.store_kv = gp_store_kv_scalar,
		.dequantize = gp_dequantize,
		.quantize = gp_quantize,
		.find_outside = gp_find_outside_scalar,
		.read = gp_read_scalar,
		.float_ops = gp_float_ops_scalar,
	};
	if (!(have & GP_CPU_AVX2))
		return;
	k->matmul = gp_matmul_avx2;
	k->lanes = 8;
	k->quantize_q8 = gp_quantize_q8_avx2;
	k->matmul_packed = gp_matmul_packed_avx2;
	k->rms_norm = gp_rms_norm_avx2;
	k->rope = gp_rope_avx2;
	k->geglu = gp_geglu_avx2;
	k->add = gp_add_avx2;
	k->attention = gp_attention_avx2;
	k->attention_merge = gp_attention_merge_avx2;
	k->attention_out = gp_attention_out_avx2;
	k->store_kv = gp_store_kv_avx2;
	k->dequantize = gp_dequantize_avx2;
	k->quantize = gp_quantize_avx2;
	k->find_outside = gp_find_outside_avx2;
	k->read = gp_read_avx2;
	k->int8_ops = gp_int8_ops_avx2;
	k->float_ops = gp_float_ops_avx2;
	if (!(have & GP_CPU_AVX512))
		return;
	k->matmul = gp_matmul_avx512;
	k->lanes = 16;
	k->quantize_q8 = gp_quantize_q8_avx512;
	k->matmul_packed = gp_matmul_packed_avx512;
	k->rms_norm = gp_rms_norm_avx512;
	k->geglu = gp_geglu_avx512;
	k->attention = gp_attention_avx512;
	k->attention_merge = gp_attention_merge_avx512;
	k->attention_out = gp_attention_out_avx512;
	k->int8_ops = gp_int8_ops_avx512;
	k->float_ops = gp_float_ops_avx512;
	if (!(have & GP_CPU_AVX512VNNI))
		return;
	k->matmul_packed = gp_matmul_packed_avx512vnni;
	k->int8_ops = gp_int8_ops_avx512vnni;
}
