/* model: files, the Gemma 3 forward pass over any device, the KV cache's
 * bookkeeping, tokenizer and chat template. Knows no process, ring or socket. */
#ifndef GP_MODEL_H
#define GP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* ==== configuration (model/config.c) ======================================= */
#define GP_MAX_LAYERS 256u
#define GP_MAX_STOPS 8u

struct gp_config {
	uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab;
	uint32_t window;            /* local layers: positions seen, own included */
	uint32_t context;           /* trained length */
	bool is_global[GP_MAX_LAYERS];
	float rope_base_local, rope_base_global;
	float rope_scale_global;    /* linear factor: positions are divided by it; 1: none */
	float attn_scale;           /* query_pre_attn_scalar^-0.5 */
	float rms_eps;
	float norm_offset;          /* 1: norms are stored as w and multiply by 1 + w
	                               (safetensors); 0: stored as 1 + w (GGUF) */
	int32_t bos, eos;           /* -1: none known */
	bool has_vision;            /* a vision tower is in the files; it is not used */
};
/* Ranges and divisibility of everything above; -EINVAL names the field. */
int gp_config_check(const struct gp_config *c);

/* ==== weights (model/model.c; gguf.c, safetensors.c read the files) ========= */
enum gp_tensor_id {             /* per model */
	GP_T_TOKEN_EMBD, GP_T_OUTPUT_NORM,
	/* per layer */
	GP_T_ATTN_NORM, GP_T_ATTN_Q, GP_T_ATTN_K, GP_T_ATTN_V, GP_T_ATTN_OUT,
	GP_T_ATTN_Q_NORM, GP_T_ATTN_K_NORM, GP_T_POST_ATTN_NORM,
	GP_T_FFN_NORM, GP_T_FFN_GATE, GP_T_FFN_UP, GP_T_FFN_DOWN, GP_T_POST_FFN_NORM,
	GP_T_COUNT,
	GP_T_PER_LAYER = GP_T_ATTN_NORM,
};

/* A matrix of rows x cols (row-major: cols is the contiguous, reduced
 * dimension) or a vector (rows == 1). Data points into the mapped file, which
 * the model owns; it may be unaligned. */
struct gp_tensor {
	const char *name;           /* as in the file */
	enum gp_type type;
	uint64_t rows, cols;
	const void *data;
	size_t bytes;
	uint32_t file;              /* index into the model's files */
	uint64_t offset;            /* in that file */
	bool mapped;                /* data is in a read-only mapping of the file, */
	int fd;                     /* which is open as this */
};

struct gp_model;

/* path: a Hugging Face folder (config.json + *.safetensors, sharded or not), a
 * single .gguf, or the first of a split (-00001-of-0000N.gguf). Maps the files
 * read-only; reads headers only. Every offset, count, dimension, length and
 * type is checked; what Gemma 3 needs and the files lack is an error here. */
int gp_model_open(struct gp_model **m, const char *path);
void gp_model_close(struct gp_model *m); /* NULL is fine */
const struct gp_config *gp_model_config(const struct gp_model *m);
const char *gp_model_path(const struct gp_model *m);
const char *gp_model_format(const struct gp_model *m); /* "GGUF", "safetensors" */
/* layer is ignored for per-model tensors. Never NULL for layer < n_layers. */
const struct gp_tensor *gp_model_tensor(const struct gp_model *m, enum gp_tensor_id id,
                                        uint32_t layer);
/* From now on gp_model_tensor gives t, of the same shape, which must stay. */
void gp_model_replace(struct gp_model *m, enum gp_tensor_id id, uint32_t layer,
                      const struct gp_tensor *t);
/* Copies bytes [from, from + n) of the tensor's. What is read only once and in order
 * comes several times faster this way than through the mapping, whose pages enter the
 * process 16 at a time. A file that was cut short since it was opened: -EIO. */
int gp_tensor_read(const struct gp_tensor *t, size_t from, size_t n, void *to);
/* Bytes that will be read soon: a hint. */
void gp_tensor_expect(const struct gp_tensor *t, size_t from, size_t n);
/* Bytes read for every decoded token by layers [first, end) (+ head when asked). */
uint64_t gp_model_bytes(const struct gp_model *m, uint32_t first, uint32_t end, bool head);
/* The type most of the matrices' bytes have. */
enum gp_type gp_model_main_type(const struct gp_model *m);
/* For inspect: every tensor in the files, used or not. */
size_t gp_model_all_tensors(const struct gp_model *m, const struct gp_tensor **list);
/* For inspect: metadata as text, "key = value" lines through the callback. */
void gp_model_each_metadata(const struct gp_model *m,
                            void (*line)(void *user, const char *key, const char *value),
                            void *user);

/* ==== GGUF writer (model/gguf_write.c) ====================================== */
/* Streaming: declare all metadata and tensors, then write the tensors' bytes in
 * order. Writes to PATH.part and renames at finish; destroy before finish
 * removes it. GGUF version 3, alignment 32. */
struct gp_gguf_writer;
int gp_gguf_writer_create(struct gp_gguf_writer **w, const char *path); /* NULL: no file, to
                                                                    * ask for sizes only */
/* Destroyed before finish, it leaves PATH.part, and PATH.part.done with the number of tensors
 * that are whole as of the last checkpoint. Until resume an earlier run's part stays as it
 * is. -EBUSY: another process writes it. */
int gp_gguf_writer_create_resumable(struct gp_gguf_writer **w, const char *path);
/* After all is declared, before any data: *done tensors are there from an earlier run whose
 * header was the same, byte for byte, and whose key, which stands for all that the data is
 * made from; writing goes on behind them. 0: all anew, and what was there is gone. */
int gp_gguf_writer_resume(struct gp_gguf_writer *w, uint64_t key, size_t *done);
int gp_gguf_writer_checkpoint(struct gp_gguf_writer *w); /* between two tensors */
/* Bytes of the header as declared so far (0: no memory); *data: of the tensors behind it. */
size_t gp_gguf_writer_bytes(const struct gp_gguf_writer *w, size_t *data);
int gp_gguf_add_u32(struct gp_gguf_writer *w, const char *key, uint32_t v);
int gp_gguf_add_f32(struct gp_gguf_writer *w, const char *key, float v);
int gp_gguf_add_bool(struct gp_gguf_writer *w, const char *key, bool v);
int gp_gguf_add_string(struct gp_gguf_writer *w, const char *key, const char *s, size_t bytes);
int gp_gguf_add_f32_array(struct gp_gguf_writer *w, const char *key, const float *v, size_t n);
int gp_gguf_add_i32_array(struct gp_gguf_writer *w, const char *key, const int32_t *v, size_t n);
int gp_gguf_add_string_array(struct gp_gguf_writer *w, const char *key,
                             const char *const *s, const size_t *bytes, size_t n);
int gp_gguf_add_tensor(struct gp_gguf_writer *w, const char *name, enum gp_type t,
                       uint64_t rows, uint64_t cols); /* vector: rows 0, cols n */
/* Appends bytes of the tensors, in the order they were declared. */
int gp_gguf_write(struct gp_gguf_writer *w, const void *data, size_t bytes);
/* The i-th tensor declared, all of whose bytes are written: to be read back while the writer
 * lives. */
int gp_gguf_written(struct gp_gguf_writer *w, size_t i, struct gp_tensor *t);
int gp_gguf_writer_finish(struct gp_gguf_writer *w); /* -EINVAL if bytes are missing */
void gp_gguf_writer_destroy(struct gp_gguf_writer *w);
/* The GGUF metadata of a Gemma 3 configuration (general.*, gemma3.*). */
int gp_gguf_add_config(struct gp_gguf_writer *w, const struct gp_config *c, const char *name);
/* "blk.3.attn_q.weight" into name. */
void gp_gguf_tensor_name(char name[64], enum gp_tensor_id id, uint32_t layer);
/* As published: "model.layers.3.self_attn.q_proj.weight" of the prefix "model". */
void gp_safetensors_tensor_name(char name[96], const char *prefix, enum gp_tensor_id id,
                                uint32_t layer);

/* ==== tokenizer (model/tokenizer.c, tokenizer_json.c, tokenizer_gguf.c) ====== */
enum gp_token_kind { GP_TOKEN_NORMAL = 1, GP_TOKEN_UNKNOWN, GP_TOKEN_CONTROL,
                     GP_TOKEN_USER_DEFINED, GP_TOKEN_UNUSED, GP_TOKEN_BYTE }; /* GGUF's */

/* The parts of a vocabulary, for building one and for writing it to a GGUF. */
struct gp_vocab {
	size_t n;
	const char **text;          /* UTF-8, U+2581 for space in pieces; n pointers */
	size_t *text_bytes;         /* pieces may hold NUL */
	float *score;               /* rank order where there are no merges */
	int32_t *kind;              /* enum gp_token_kind */
	/* merges by rank as pairs of texts "left right" are in the file; NULL: none */
	size_t n_merges;
	uint32_t (*merge)[2];       /* ids of left and right */
	int32_t bos, eos, end_of_turn; /* -1: none */
	char *chat_template;        /* NULL: none */
};

struct gp_tokenizer;
/* path: as gp_model_open, or a folder with just a tokenizer.json, or that file.
 * -ENOENT: the files carry no tokenizer. Immutable afterwards: any thread. */
int gp_tokenizer_open(struct gp_tokenizer **t, const char *path);
void gp_tokenizer_close(struct gp_tokenizer *t);
const struct gp_vocab *gp_tokenizer_vocab(const struct gp_tokenizer *t);

enum { GP_ENCODE_BOS = 1u, GP_ENCODE_SPECIAL = 2u /* control tokens in the text are parsed */ };
/* text: valid UTF-8 of that many bytes (NUL is legal), else -EILSEQ with the
 * byte offset. *ids: malloc'ed, owned by the caller. Returns 0. */
int gp_tokenizer_encode(const struct gp_tokenizer *t, const char *text, size_t bytes,
                        unsigned flags, uint32_t **ids, size_t *n);
/* The same for a text that is to have at most so many ids (0: no limit): -E2BIG where it has
 * more, found as soon as may be, whatever its length. */
int gp_tokenizer_encode_most(const struct gp_tokenizer *t, const char *text, size_t bytes,
                             unsigned flags, size_t most, uint32_t **ids, size_t *n);
/* Whole decode; *text malloc'ed, NUL-terminated, bytes without the NUL. */
int gp_tokenizer_decode(const struct gp_tokenizer *t, const uint32_t *ids, size_t n,
                        bool skip_special, char **text, size_t *bytes);
bool gp_tokenizer_is_stop(const struct gp_tokenizer *t, uint32_t id); /* eos, end_of_turn */

/* Streaming: bytes of a run of byte tokens are held back until the run ends. */
struct gp_detokenizer;
int gp_detokenizer_create(struct gp_detokenizer **d, const struct gp_tokenizer *t,
                          bool skip_special);
/* Text that is certain now; belongs to d, valid until the next call. */
int gp_detokenizer_push(struct gp_detokenizer *d, uint32_t id, const char **text, size_t *bytes);
int gp_detokenizer_flush(struct gp_detokenizer *d, const char **text, size_t *bytes);
void gp_detokenizer_destroy(struct gp_detokenizer *d);

/* ==== chat template (model/chat.c) =========================================== */
struct gp_chat_message {
	const char *role;           /* "system" (first only), "user", "assistant" */
	const char *content;        /* UTF-8, NUL-terminated */
};
/* The prompt as text, for display and tests: begins with "<bos>". malloc'ed. */
int gp_chat_render(const struct gp_chat_message *m, size_t n, bool add_generation_prompt,
                   char **text);
/* The prompt as ids: the template's own tokens parsed, those in contents plain
 * text. parse_content: contents too (equals encoding the rendered text). */
int gp_chat_encode(const struct gp_tokenizer *t, const struct gp_chat_message *m, size_t n,
                   bool add_generation_prompt, bool parse_content, uint32_t **ids,
                   size_t *n_ids);
/* The prompt for an answer, contents plain text, of at most so many ids (0: no limit): as
 * gp_tokenizer_encode_most. */
int gp_chat_encode_most(const struct gp_tokenizer *t, const struct gp_chat_message *m, size_t n,
                        size_t most, uint32_t **ids, size_t *n_ids);

/* ==== KV cache bookkeeping (model/kv_cache.c) ================================ */
/* Sequences are slots 0..max_sequences-1. Positions live in blocks of
 * GP_KV_BLOCK; a block of kind k holds that many positions of all layers of
 * that kind of this stage. Blocks are counted references, so that a copied
 * prefix shares them; one about to be written is made private first. Global
 * tables grow; local tables give back blocks that fell out of the window (plus
 * GP_KV_SLACK positions for rollback). The memory behind a block is the
 * device's. One thread. */
enum gp_kv_kind { GP_KV_LOCAL, GP_KV_GLOBAL, GP_KV_KINDS };
#define GP_KV_SLACK 128u

struct gp_kv_cache;
struct gp_kv_limits {
	uint32_t max_sequences, context, window;
	bool has_kind[GP_KV_KINDS];    /* does this stage have layers of it */
	uint32_t kv_blocks;            /* global ones that whoever makes the steps will need at
	                                * once; 0: as many as there are positions for */
};
/* The device's side: storage for block id (0, 1, ...: ids are reused). */
struct gp_kv_storage {
	int (*reserve)(void *device, enum gp_kv_kind kind, uint32_t id);   /* -ENOMEM */
	int (*copy)(void *device, enum gp_kv_kind kind, uint32_t to, uint32_t from);
};
int gp_kv_create(struct gp_kv_cache **kv, const struct gp_kv_limits *l,
                 const struct gp_kv_storage *s, void *device);
void gp_kv_destroy(struct gp_kv_cache *kv);
int gp_kv_drop(struct gp_kv_cache *kv, uint32_t seq);
/* -ERANGE: a local layer no longer holds the window before pos, or pos is past the end. */
int gp_kv_truncate(struct gp_kv_cache *kv, uint32_t seq, uint32_t pos);
int gp_kv_copy(struct gp_kv_cache *kv, uint32_t seq, uint32_t src, uint32_t pos);
/* Would truncate or copy to pos succeed? */
bool gp_kv_check(const struct gp_kv_cache *kv, uint32_t seq, uint32_t pos);
/* Does the next position of seq take a global block: it begins one, or its last is shared? */
bool gp_kv_begins_block(const struct gp_kv_cache *kv, uint32_t seq);
void gp_kv_clear(struct gp_kv_cache *kv);
uint32_t gp_kv_length(const struct gp_kv_cache *kv, uint32_t seq);
/* Makes room for positions [length, length + n) of seq, all its blocks there
 * writable, and moves length. On failure nothing has changed. */
int gp_kv_extend(struct gp_kv_cache *kv, uint32_t seq, uint32_t n);
/* Table of block ids by position / GP_KV_BLOCK; blocks given back read UINT32_MAX. */
const uint32_t *gp_kv_table(const struct gp_kv_cache *kv, enum gp_kv_kind kind, uint32_t seq);
/* So many blocks of a kind are enough for any steps of at most max_rows rows. */
uint32_t gp_kv_most_blocks(const struct gp_kv_limits *l, uint32_t max_rows, enum gp_kv_kind kind);
uint32_t gp_kv_blocks_used(const struct gp_kv_cache *kv, enum gp_kv_kind kind);

/* ==== device operations (implemented in workers/DEVICE) ====================== */
/* Handles are the device's own; 0 is none. Buffers hold max_rows rows. An op
 * may execute at once (CPU) or record (GPU); after end_step the outputs asked
 * for are in host memory. All calls from one thread, but cancel. Errors are
 * negative errno with a message. */
enum gp_buffer {               /* activations, float32, [row][width] */
	GP_BUF_HIDDEN,         /* hidden: the residual stream */
	GP_BUF_NORMED,         /* hidden */
	GP_BUF_Q, GP_BUF_K, GP_BUF_V, GP_BUF_ATTN,  /* heads * head_dim */
	GP_BUF_BRANCH,         /* hidden: a branch before its residual add */
	GP_BUF_GATE, GP_BUF_UP,  /* ffn */
	GP_BUF_LOGITS,         /* vocab; max_logit_rows rows */
	GP_BUF_COUNT,
};

struct gp_batch {              /* a step as the device sees it */
	uint32_t n_rows;
	const uint32_t *seq, *pos, *token;       /* by row */
	uint32_t n_logit_rows;
	const uint32_t *logit_rows;              /* indices of rows, ascending */
	const uint32_t *candidates;              /* by logit row: wanted of its logits; 0: all */
	const struct gp_kv_cache *kv;            /* block tables, already extended */
};

struct gp_stage_shape {        /* what a device needs to lay out its memory */
	const struct gp_config *config;
	uint32_t first_layer, end_layer;
	bool embeds, has_head;
	uint32_t max_rows, max_logit_rows;
	uint32_t max_sequences, context;
	uint32_t kv_blocks;            /* as in gp_kv_limits */
	enum gp_type kv_type;
	uint64_t weight_bytes;         /* all its weights, as the device keeps them; 0: unknown */
	bool check_numerics;           /* search each operation's output (model/checked.c) */
	/* Sees what a matrix product reads, before it does: rows x the matrix' cols. Q stands
	 * for Q, K and V, GATE for gate and up, TOKEN_EMBD for the head. POST_ATTN_NORM and
	 * POST_FFN_NORM: what those norms read, a branch before it joins. 1: nothing more of
	 * this step is wanted, its output is left undefined. NULL: nobody looks. The device
	 * needs peek. */
	int (*observe)(void *observer, enum gp_tensor_id id, uint32_t layer, const float *x,
	               uint32_t rows);
	void *observer;
};

typedef uintptr_t gp_handle;
struct gp_matmul_out { gp_handle weight; enum gp_buffer to; };

struct gp_device_ops {
	const char *name;      /* "cpu" */
	/* Lays out buffers for the shape. */
	int (*configure)(void *dev, const struct gp_stage_shape *shape);
	/* Takes a weight (a copy, repacked), read by gp_tensor_read. norm_offset is
	 * added to vectors. */
	int (*load)(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out);
	/* What load will take; NULL: as many bytes as in the file. */
	uint64_t (*weight_bytes)(void *dev, const struct gp_tensor *t);
	/* After the last weight: the next kind of step whose commands the device wants
	 * recorded before there is any such. 1: the operations follow, of a step with
	 * *n_logit_rows, then end_step with no room for output, which runs nothing; 0: there
	 * is none left. NULL: operations are not recorded. */
	int (*prepare)(void *dev, uint32_t *n_logit_rows);
	/* Nothing more is to be loaded; NULL: nothing to wait for. */
	int (*finish_load)(void *dev);
	struct gp_kv_storage kv;
	/* hidden_in NULL: the stage embeds. 1: the device has recorded the operations of
	 * such a step (as many rows, or as many as it rounds to); end_step is next. */
	int (*begin_step)(void *dev, const struct gp_batch *b, const float *hidden_in);
	int (*embed)(void *dev, gp_handle table, float scale);      /* tokens -> HIDDEN */
	int (*rms_norm)(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w);
	int (*matmul)(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out);
	/* Q and K normed per head and rotated, in place; K and V appended to the layer's
	 * cache. */
	int (*qk_rope_append)(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm);
	int (*attention)(void *dev, uint32_t layer);                /* Q -> ATTN */
	int (*geglu)(void *dev);                                    /* GATE, UP -> GATE */
	int (*add)(void *dev, enum gp_buffer to, enum gp_buffer from);
	/* Rows that want logits only: NORMED -> LOGITS. */
	int (*head)(void *dev, gp_handle table);

	/* Several of these at once, or NULL where a device has no such thing. */
	int (*append_attention)(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm);
	/* BRANCH normed by w is added to HIDDEN; that, normed by next, -> NORMED (next 0: not). */
	int (*add_norm)(void *dev, gp_handle w, gp_handle next);
	/* NORMED by both matrices, then geglu: -> GATE. */
	int (*gated_matmul)(void *dev, gp_handle gate, gp_handle up);

	/* Waits; copies HIDDEN (n_rows) or LOGITS to out. Of LOGITS each logit row in
	 * turn, without gaps: all vocab floats, or as many struct gp_candidate as the
	 * batch wants of it, best first by the order of struct gp_best. What a device
	 * does not select itself, gp_best_scan selects from the row in host memory. */
	int (*end_step)(void *dev, enum gp_buffer from, float *out);
	/* Waits for what was called since begin_step, then searches the buffer's first
	 * rows for NaN and infinity: -EDOM (gp_find_wrong). For --check-numerics. */
	int (*check)(void *dev, enum gp_buffer b, uint32_t rows);
	/* Waits likewise; where the host sees the buffer until the next call, or NULL and an
	 * error. May be NULL. */
	const float *(*peek)(void *dev, enum gp_buffer b);
	uint64_t (*memory_bytes)(void *dev);     /* weights, buffers and KV held */
	/* Any thread: the step in hand ends soon with -ECANCELED. */
	void (*cancel)(void *dev);
};

/* ---- what all devices work out alike (model/device.c) ---- */
/* Is it a matrix of the bytes that its shape needs? */
int gp_tensor_check(const struct gp_tensor *t);
/* The bytes of a stage's weights (its layers, embeds, has_head); each as bytes says,
 * NULL: as in the file. */
uint64_t gp_stage_weights(const struct gp_model *m, const struct gp_stage_shape *s,
                          uint64_t (*bytes)(void *dev, const struct gp_tensor *), void *dev);
/* -EDOM and a message that names the first float that is NaN or infinite. */
int gp_find_wrong(const float *x, uint32_t rows, uint32_t width);
void gp_stage_widths(const struct gp_stage_shape *s, uint32_t width[GP_BUF_COUNT]); /* floats */
struct gp_kv_place {
	enum gp_kv_kind kind;
	uint32_t index;        /* of the layer among the stage's of its kind */
};
void gp_kv_places(const struct gp_stage_shape *s, struct gp_kv_place place[GP_MAX_LAYERS],
                  uint32_t n_layers[GP_KV_KINDS]);
/* head_dim / 2 frequencies; of a position as many cosines, then sines. */
void gp_rope_frequencies(const struct gp_config *c, enum gp_kv_kind kind, float *inv_freq);
void gp_rope_row(float *row, const float *inv_freq, uint32_t half, uint32_t pos);

/* ==== a stage (model/gemma3.c): the layers [first, end) on one device ========= */
struct gp_stage;
/* progress(user, done, total) in bytes of weights; may be NULL. */
int gp_stage_create(struct gp_stage **s, const struct gp_model *m,
                    const struct gp_stage_shape *shape, const struct gp_device_ops *ops,
                    void *dev, void (*progress)(void *, uint64_t, uint64_t), void *user);
void gp_stage_destroy(struct gp_stage *s); /* NULL is fine; the device stays */
struct gp_kv_cache *gp_stage_kv(struct gp_stage *s);

struct gp_stage_row {
	uint32_t seq, pos, token;
	bool wants_logits;
	uint32_t candidates;   /* 0: all logits; k: its k best. At most vocab / 2, for they lie
	                          where the row would, and GP_MAX_CANDIDATES */
};
/* Rows of one sequence stand in ascending positions that begin at its length.
 * in: n_rows x hidden, or NULL when the stage embeds. out: n_rows x hidden, or
 * of each row that wants logits, without gaps, vocab floats or its candidates
 * (may be NULL when there is none).
 * On failure the KV lengths of the step's sequences are undefined: drop them. */
int gp_stage_run(struct gp_stage *s, const struct gp_stage_row *rows, uint32_t n_rows,
                 const float *in, float *out);

#endif
