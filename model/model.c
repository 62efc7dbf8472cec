/* Opens a model's files and finds Gemma 3's tensors in them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/internal.h"
#include "model/safetensors.h"

enum { PER_LAYER = GP_T_COUNT - GP_T_PER_LAYER, MAX_PARTS = 1024 };

struct gp_model {
	char *path;
	struct gp_config config;
	/* one of the two */
	struct gp_gguf **parts;
	uint32_t n_parts;
	struct gp_safetensors *safetensors;
	json_t *json;                      /* config.json */
	const char *prefix;                /* safetensors: "model" */

	struct gp_tensor *all;
	size_t n_all;
	const struct gp_tensor **by_name;  /* all, sorted */
	const struct gp_tensor *of_model[GP_T_PER_LAYER];
	const struct gp_tensor *of_layer[GP_MAX_LAYERS][PER_LAYER];
};

static int no_memory(const struct gp_model *m)
{
	return gp_fail(ENOMEM, "%s: out of memory", m->path);
}

/* ---- the list of all tensors ------------------------------------------------ */
static int compare_names(const void *a, const void *b)
{
	return strcmp((*(const struct gp_tensor *const *)a)->name,
		      (*(const struct gp_tensor *const *)b)->name);
}

static int compare_places(const void *a, const void *b)
{
	const struct gp_tensor *s = *(const struct gp_tensor *const *)a;
	const struct gp_tensor *t = *(const struct gp_tensor *const *)b;

	if (s->file != t->file)
		return s->file < t->file ? -1 : 1;
	return (s->offset > t->offset) - (s->offset < t->offset);
}

static int check_overlap(struct gp_model *m)
{
	const struct gp_tensor **t = m->by_name;

	qsort(t, m->n_all, sizeof *t, compare_places);
	for (size_t i = 1; i < m->n_all; i++)
		if (t[i]->file == t[i - 1]->file && t[i]->offset - t[i - 1]->offset < t[i - 1]->bytes)
			return gp_fail(EINVAL, "%s: tensors '%s' and '%s' overlap; the file is "
				       "damaged", m->path, t[i - 1]->name, t[i]->name);
	return 0;
}

/* Fills by_name from all; no name twice, no byte in two tensors. */
static int index_tensors(struct gp_model *m)
{
	int rc;

	m->by_name = calloc(m->n_all + 1, sizeof *m->by_name);
	if (!m->by_name)
		return no_memory(m);
	for (size_t i = 0; i < m->n_all; i++)
		m->by_name[i] = &m->all[i];
	if ((rc = check_overlap(m)) < 0)
		return rc;
	qsort(m->by_name, m->n_all, sizeof *m->by_name, compare_names);
	for (size_t i = 1; i < m->n_all; i++)
		if (compare_names(&m->by_name[i - 1], &m->by_name[i]) == 0)
			return gp_fail(EINVAL, "%s: tensor '%s' is there twice; the files are damaged "
				       "or mixed", m->path, m->by_name[i]->name);
	return 0;
}

static const struct gp_tensor *find(const struct gp_model *m, const char *name)
{
	const struct gp_tensor key = { .name = name }, *k = &key;
	const struct gp_tensor *const *t =
		bsearch(&k, m->by_name, m->n_all, sizeof *m->by_name, compare_names);

	return t ? *t : NULL;
}

/* ---- what Gemma 3 needs ------------------------------------------------------ */
static void expected_shape(const struct gp_config *c, enum gp_tensor_id id, uint64_t *rows,
			   uint64_t *cols)
{
	const uint64_t q = (uint64_t)c->n_heads * c->head_dim;
	const uint64_t kv = (uint64_t)c->n_kv_heads * c->head_dim;

	*rows = 1;
	*cols = c->hidden;
	switch (id) {
	case GP_T_TOKEN_EMBD: *rows = c->vocab; break;
	case GP_T_ATTN_Q: *rows = q; break;
	case GP_T_ATTN_K:
	case GP_T_ATTN_V: *rows = kv; break;
	case GP_T_ATTN_OUT: *rows = c->hidden; *cols = q; break;
	case GP_T_ATTN_Q_NORM:
	case GP_T_ATTN_K_NORM: *cols = c->head_dim; break;
	case GP_T_FFN_GATE:
	case GP_T_FFN_UP: *rows = c->ffn; break;
	case GP_T_FFN_DOWN: *rows = c->hidden; *cols = c->ffn; break;
	default: break;
	}
}

static int not_found(const struct gp_model *m, const char *name)
{
	const char *type = m->safetensors ? gp_safetensors_unreadable(m->safetensors, name) : NULL;

	if (type)
		return gp_fail(EINVAL, "%s: tensor '%s' is of type %s; gempipe reads BF16, F16 and "
			       "F32 safetensors", m->path, name, type);
	return gp_fail(EINVAL, "%s: tensor '%s' is missing; the model is incomplete, fetch it again",
		       m->path, name);
}

static int bind(struct gp_model *m, enum gp_tensor_id id, uint32_t layer,
		const struct gp_tensor **out)
{
	const struct gp_tensor *t;
	uint64_t rows, cols;
	char name[96];

	if (m->safetensors)
		gp_safetensors_tensor_name(name, m->prefix, id, layer);
	else
		gp_gguf_tensor_name(name, id, layer);
	t = find(m, name);
	if (!t)
		return not_found(m, name);
	expected_shape(&m->config, id, &rows, &cols);
	if (t->rows != rows || t->cols != cols)
		return gp_fail(EINVAL, "%s: tensor '%s' is %llu x %llu (rows x columns), expected "
			       "%llu x %llu; the file does not fit its configuration", m->path, name,
			       (unsigned long long)t->rows, (unsigned long long)t->cols,
			       (unsigned long long)rows, (unsigned long long)cols);
	if (rows == 1 && gp_type_info(t->type)->block_elems != 1)
		return gp_fail(EINVAL, "%s: tensor '%s' is of type %s; norms are F32, F16 or BF16",
			       m->path, name, gp_type_info(t->type)->name);
	*out = t;
	return 0;
}

static int bind_all(struct gp_model *m)
{
	int rc = 0;

	for (int id = 0; id < GP_T_PER_LAYER && rc >= 0; id++)
		rc = bind(m, (enum gp_tensor_id)id, 0, &m->of_model[id]);
	for (uint32_t l = 0; l < m->config.n_layers && rc >= 0; l++)
		for (int id = GP_T_PER_LAYER; id < GP_T_COUNT && rc >= 0; id++)
			rc = bind(m, (enum gp_tensor_id)id, l, &m->of_layer[l][id - GP_T_PER_LAYER]);
	return rc;
}

enum { HEAD_SAMPLE = 16 };

/* Rows spread from the first to the last: all the same bytes. */
static bool same_rows(const struct gp_tensor *a, const struct gp_tensor *b)
{
	const size_t row = a->bytes / (size_t)a->rows, last = (size_t)a->rows - 1;

	for (size_t i = 0; i < HEAD_SAMPLE; i++) {
		const size_t at = last * i / (HEAD_SAMPLE - 1) * row;

		if (memcmp((const uint8_t *)a->data + at, (const uint8_t *)b->data + at, row) != 0)
			return false;
	}
	return true;
}

/* The forward pass takes the embedding for its head, as all Gemma 3 models do. A
 * head in the files must be a copy of it; a whole look would read gigabytes. */
static int check_head(const struct gp_model *m)
{
	static const char *const names[] = { "lm_head.weight", "language_model.lm_head.weight",
					     "output.weight" };
	const struct gp_tensor *embd = m->of_model[GP_T_TOKEN_EMBD];

	for (size_t i = 0; i < GP_ARRAY_LEN(names); i++) {
		const struct gp_tensor *t = find(m, names[i]);

		if (!t && !(m->safetensors && gp_safetensors_unreadable(m->safetensors, names[i])))
			continue;
		if (!t || t->type != embd->type || t->rows != embd->rows || t->cols != embd->cols ||
		    !same_rows(t, embd))
			return gp_fail(ENOTSUP, "%s: its head '%s' differs from its embedding; gempipe "
				       "runs models whose head is the embedding", m->path, names[i]);
	}
	return 0;
}

static bool is_vision(const char *name)
{
	static const char *const prefixes[] = {
		"vision_tower.", "model.vision_tower.", "multi_modal_projector.",
		"model.multi_modal_projector.", "v.", "mm.",
	};

	for (size_t i = 0; i < GP_ARRAY_LEN(prefixes); i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static int finish(struct gp_model *m)
{
	int rc = gp_config_check(&m->config);

	if (rc < 0)
		return gp_fail_in(rc, "%s", m->path);
	for (size_t i = 0; i < m->n_all && !m->config.has_vision; i++)
		m->config.has_vision = is_vision(m->all[i].name);
	rc = bind_all(m);
	return rc < 0 ? rc : check_head(m);
}

/* ---- safetensors --------------------------------------------------------------- */
static int load_config(struct gp_model *m)
{
	json_t *generation = NULL;
	int rc = gp_json_load(&m->json, m->path, "config.json");

	if (rc < 0)
		return rc == -ENOENT ? gp_fail(ENOENT, "%s: has no config.json; give a Hugging Face "
					       "model folder or a .gguf file", m->path) : rc;
	rc = gp_json_load(&generation, m->path, "generation_config.json");
	if (rc < 0 && rc != -ENOENT)
		return rc;
	rc = gp_config_from_json(&m->config, m->json, generation, m->path);
	json_decref(generation);
	return rc;
}

/* Checkpoints differ in what stands before "layers.N". */
static const char *find_prefix(const struct gp_model *m)
{
	static const char *const known[] = { "model", "language_model.model",
					     "model.language_model" };
	char name[96];

	for (size_t i = 0; i < GP_ARRAY_LEN(known); i++) {
		gp_safetensors_tensor_name(name, known[i], GP_T_OUTPUT_NORM, 0);
		if (find(m, name))
			return known[i];
	}
	return known[0];
}

static int open_folder(struct gp_model *m)
{
	const struct gp_tensor *list;
	int rc;

	if ((rc = load_config(m)) < 0 || (rc = gp_safetensors_open(&m->safetensors, m->path)) < 0)
		return rc;
	m->n_all = gp_safetensors_tensors(m->safetensors, &list);
	m->all = calloc(m->n_all + 1, sizeof *m->all);
	if (!m->all)
		return no_memory(m);
	if (m->n_all)
		memcpy(m->all, list, m->n_all * sizeof *m->all);
	if ((rc = index_tensors(m)) < 0)
		return rc;
	m->prefix = find_prefix(m);
	return finish(m);
}

/* ---- GGUF ---------------------------------------------------------------------- */
static void copy_tensors(struct gp_model *m, uint32_t part)
{
	const struct gp_gguf_tensor *t;
	size_t n = gp_gguf_tensors(m->parts[part], &t);

	for (size_t i = 0; i < n; i++)
		m->all[m->n_all++] = (struct gp_tensor){
			.name = t[i].name, .type = t[i].type,
			/* Their product with dims[0] was checked to fit. */
			.rows = t[i].dims[1] * t[i].dims[2] * t[i].dims[3], .cols = t[i].dims[0],
			.data = t[i].data, .bytes = t[i].bytes, .mapped = true,
			.fd = gp_gguf_fd(m->parts[part]),
			.file = part,
			.offset = t[i].offset,
		};
}

static int gather_tensors(struct gp_model *m)
{
	const struct gp_gguf_tensor *t;
	uint32_t expected;
	size_t n = 0;
	int rc;

	for (uint32_t i = 0; i < m->n_parts; i++)
		n += gp_gguf_tensors(m->parts[i], &t);
	expected = (uint32_t)n;
	if ((rc = gp_gguf_get_u32(m->parts[0], "split.tensors.count", &expected)) < 0)
		return rc;
	if (expected != n)
		return gp_fail(EINVAL, "%s: its parts hold %zu tensors, expected %u; they are damaged "
			       "or mixed", m->path, n, expected);
	m->all = calloc(n + 1, sizeof *m->all);
	if (!m->all)
		return no_memory(m);
	for (uint32_t i = 0; i < m->n_parts; i++)
		copy_tensors(m, i);
	return index_tensors(m);
}

/* The path up to "-00001-of-0000N.gguf"; 0: it is not named so. */
static size_t split_stem(const char *path, uint32_t n_parts)
{
	char end[64];
	size_t n = strlen(path), k = (size_t)snprintf(end, sizeof end, "-00001-of-%05u.gguf", n_parts);

	return n > k && strcmp(path + n - k, end) == 0 ? n - k : 0;
}

static int open_part(struct gp_model *m, uint32_t part, size_t stem)
{
	uint32_t no = UINT32_MAX, count = 0;
	char *path;
	int rc;

	if (asprintf(&path, "%.*s-%05u-of-%05u.gguf", (int)stem, m->path, part + 1, m->n_parts) < 0)
		return no_memory(m);
	rc = gp_gguf_open_part(&m->parts[part], path);
	if (rc < 0)
		gp_fail_in(rc, "part %u of %u of %s", part + 1, m->n_parts, m->path);
	if (rc >= 0 && (rc = gp_gguf_get_u32(m->parts[part], "split.no", &no)) >= 0 &&
	    (rc = gp_gguf_get_u32(m->parts[part], "split.count", &count)) >= 0 &&
	    (no != part || count != m->n_parts))
		rc = gp_fail(EINVAL, "%s: is not part %u of %u by its own header; the files are mixed",
			     path, part + 1, m->n_parts);
	free(path);
	return rc;
}

static int open_parts(struct gp_model *m)
{
	uint32_t count = 1;
	size_t stem = 0;
	int rc = gp_gguf_get_u32(m->parts[0], "split.count", &count);

	if (rc < 0 || count <= 1)
		return rc;
	if (count <= MAX_PARTS)
		stem = split_stem(m->path, count);
	if (stem == 0)
		return gp_fail(EINVAL, "%s: is the first of %u parts but not named "
			       "NAME-00001-of-%05u.gguf; rename the parts so", m->path, count, count);
	for (m->n_parts = count; count > 1 && rc >= 0; count--)
		rc = open_part(m, count - 1, stem);
	return rc;
}

/* The head's rows; a vocabulary text for each must fit them. */
static int read_vocab(struct gp_model *m)
{
	const struct gp_gguf_value *tokens = NULL;
	const struct gp_tensor *t = find(m, "token_embd.weight");
	int rc;

	if (!t)
		return not_found(m, "token_embd.weight");
	if (t->rows > UINT32_MAX)
		return gp_fail(EINVAL, "%s: tensor 'token_embd.weight' has too many rows", m->path);
	m->config.vocab = (uint32_t)t->rows;
	rc = gp_gguf_get_array(m->parts[0], "tokenizer.ggml.tokens", GP_GGUF_STRING, &tokens);
	if (rc > 0 && tokens->n > t->rows)
		return gp_fail(EINVAL, "%s: %llu tokens but %llu embedding rows; the file does not "
			       "fit itself", m->path, (unsigned long long)tokens->n,
			       (unsigned long long)t->rows);
	return rc;
}

static int open_gguf(struct gp_model *m)
{
	int rc;

	m->parts = calloc(MAX_PARTS, sizeof *m->parts);
	if (!m->parts)
		return no_memory(m);
	m->n_parts = 1;
	if ((rc = gp_gguf_open(&m->parts[0], m->path)) < 0 ||
	    (rc = gp_config_from_gguf(&m->config, m->parts[0])) < 0 ||
	    (rc = open_parts(m)) < 0 || (rc = gather_tensors(m)) < 0 || (rc = read_vocab(m)) < 0)
		return rc;
	return finish(m);
}

/* ---- the public face ------------------------------------------------------------ */
static int open_any(struct gp_model *m)
{
	size_t n = strlen(m->path);
	struct stat st;

	if (stat(m->path, &st) < 0)
		return gp_fail(errno, "%s: %s; give a .gguf file or a Hugging Face model folder",
			       m->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return open_folder(m);
	if (n > 12 && strcmp(m->path + n - 12, ".safetensors") == 0)
		return gp_fail(EINVAL, "%s: is one file of a model; give the folder that holds it and "
			       "config.json", m->path);
	return open_gguf(m);
}

int gp_model_open(struct gp_model **out, const char *path)
{
	struct gp_model *m = calloc(1, sizeof *m);
	int rc;

	*out = NULL;
	if (m)
		m->path = strdup(path);
	rc = m && m->path ? open_any(m) : gp_fail(ENOMEM, "%s: out of memory", path);
	if (rc < 0) {
		gp_model_close(m);
		return rc;
	}
	*out = m;
	return 0;
}

void gp_model_close(struct gp_model *m)
{
	if (!m)
		return;
	for (uint32_t i = 0; m->parts && i < m->n_parts; i++)
		gp_gguf_close(m->parts[i]);
	gp_safetensors_close(m->safetensors);
	json_decref(m->json);
	free(m->parts);
	free(m->by_name);
	free(m->all);
	free(m->path);
	free(m);
}

const struct gp_config *gp_model_config(const struct gp_model *m)
{
	return &m->config;
}

const char *gp_model_path(const struct gp_model *m)
{
	return m->path;
}

const char *gp_model_format(const struct gp_model *m)
{
	return m->safetensors ? "safetensors" : "GGUF";
}

const struct gp_tensor *gp_model_tensor(const struct gp_model *m, enum gp_tensor_id id,
					uint32_t layer)
{
	return id < GP_T_PER_LAYER ? m->of_model[id] : m->of_layer[layer][id - GP_T_PER_LAYER];
}

void gp_model_replace(struct gp_model *m, enum gp_tensor_id id, uint32_t layer,
		      const struct gp_tensor *t)
{
	if (id < GP_T_PER_LAYER)
		m->of_model[id] = t;
	else
		m->of_layer[layer][id - GP_T_PER_LAYER] = t;
}

uint64_t gp_model_bytes(const struct gp_model *m, uint32_t first, uint32_t end, bool head)
{
	uint64_t n = 0;

	for (uint32_t l = first; l < end; l++)
		for (int i = 0; i < PER_LAYER; i++)
			n += m->of_layer[l][i]->bytes;
	if (head)
		n += m->of_model[GP_T_TOKEN_EMBD]->bytes + m->of_model[GP_T_OUTPUT_NORM]->bytes;
	return n;
}

int gp_tensor_read(const struct gp_tensor *t, size_t from, size_t n, void *to)
{
	ssize_t got;

	if (!t->mapped) {
		memcpy(to, (const char *)t->data + from, n);
		return 0;
	}
	for (size_t done = 0; done < n; done += (size_t)got) {
		got = pread(t->fd, (char *)to + done, n - done, (off_t)(t->offset + from + done));
		if (got < 0 && errno == EINTR)
			got = 0;
		else if (got <= 0)
			return gp_fail(EIO, "tensor '%s' can't be read: %s", t->name,
			               got < 0 ? strerror(errno) : "its file was cut short; fetch it again");
	}
	return 0;
}

void gp_tensor_expect(const struct gp_tensor *t, size_t from, size_t n)
{
	if (t->mapped)
		posix_fadvise(t->fd, (off_t)(t->offset + from), (off_t)n, POSIX_FADV_WILLNEED);
}

enum gp_type gp_model_main_type(const struct gp_model *m)
{
	const struct gp_tensor *embd = m->of_model[GP_T_TOKEN_EMBD];
	uint64_t bytes[GP_TYPE_BF16 + 1] = { 0 };
	uint32_t most = (uint32_t)embd->type;

	bytes[most] = embd->bytes;
	for (uint32_t l = 0; l < m->config.n_layers; l++)
		for (int i = 0; i < PER_LAYER; i++)
			if (m->of_layer[l][i]->rows > 1)
				bytes[m->of_layer[l][i]->type] += m->of_layer[l][i]->bytes;
	for (uint32_t t = 0; t < GP_ARRAY_LEN(bytes); t++)
		if (bytes[t] > bytes[most])
			most = t;
	return (enum gp_type)most;
}

size_t gp_model_all_tensors(const struct gp_model *m, const struct gp_tensor **list)
{
	*list = m->all;
	return m->n_all;
}

void gp_model_each_metadata(const struct gp_model *m,
			    void (*line)(void *user, const char *key, const char *value), void *user)
{
	if (m->safetensors)
		gp_json_each_value(m->json, line, user);
	else
		gp_gguf_each_value(m->parts[0], line, user);
}
