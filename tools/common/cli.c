#include "tools/common/cli.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

void cli_init(struct cli *c, const char *verb)
{
	char name[48];

	gp_process_init();
	opterr = 0;
	*c = (struct cli){ .verb = verb, .plan = { .kv_type = -1 } };
	snprintf(name, sizeof name, "gempipe %s", verb);
	gp_log_init(name, GP_LOG_WARNING);
}

static int number_option(const char *what, uint32_t max, uint32_t *out)
{
	uint64_t v;
	const int rc = gp_parse_u64(what, optarg, 1, max, &v);

	if (rc == 0)
		*out = (uint32_t)v;
	return rc;
}

static int kv_type_option(struct cli *c)
{
	const struct gp_type_info *t = gp_type_by_name(optarg);

	if (!t || (t->type != GP_TYPE_F32 && t->type != GP_TYPE_F16 && t->type != GP_TYPE_Q8_0))
		return gp_fail(EINVAL, "--kv-type '%s': must be f32, f16 or q8_0", optarg);
	c->plan.kv_type = (int)t->type;
	return 0;
}

static int lookup_option(struct cli *c)
{
	uint64_t v = 0;
	const int rc = gp_parse_u64("--lookup", optarg, 0, GP_MAX_LOOKUP, &v);

	c->lookup = (uint32_t)v;
	return rc;
}

/* Through the environment, for the workers that are started and for the rulers. */
static int cpu_mask_option(void)
{
	unsigned mask;
	const int rc = gp_cpu_mask(optarg, &mask);

	if (rc < 0)
		return gp_fail_in(rc, "--cpu-mask");
	if (setenv("GP_CPU", optarg, 1) < 0)
		return gp_fail(ENOMEM, "no memory for --cpu-mask");
	return 0;
}

static void print_and_end(const char *text)
{
	const bool ok = fputs(text, stdout) >= 0 && fflush(stdout) == 0;

	exit(ok ? 0 : 1);
}

int cli_option(struct cli *c, int option, const char *help)
{
	char name[48];

	switch (option) {
	case 'm':
		c->model = optarg;
		return 0;
	case CLI_STAGES:
		c->plan.stages = optarg;
		return 0;
	case CLI_THREADS:
		return number_option("--threads", 256, &c->plan.threads);
	case CLI_CTX:
		return number_option("--ctx", 1u << 24, &c->plan.context);
	case CLI_ROWS:
		return number_option("--max-rows", 65536, &c->plan.max_rows);
	case CLI_CPU_MASK:
		return cpu_mask_option();
	case CLI_DEVICE_MEMORY:
		c->plan.device_memory = optarg;
		return 0;
	case CLI_NPU:
		c->plan.npu = optarg;
		return 0;
	case CLI_NPU_LAYERS:
		return number_option("--npu-layers", GP_MAX_LAYERS, &c->plan.npu_layers);
	case CLI_CHECK_NUMERICS:
		c->plan.check_numerics = true;
		return 0;
	case CLI_KV_TYPE:
		return kv_type_option(c);
	case CLI_LOOKUP:
		return lookup_option(c);
	case CLI_DRAFT:
		c->draft = optarg;
		return 0;
	case CLI_DRAFT_STAGES:
		c->draft_stages = optarg;
		return 0;
	case CLI_TRACE:
		c->trace = optarg;
		return 0;
	case CLI_JSON:
		c->json = true;
		return 0;
	case 'v':
		snprintf(name, sizeof name, "gempipe %s", c->verb);
		gp_log_init(name, c->verbose ? GP_LOG_DEBUG : GP_LOG_INFO);
		c->verbose = true;
		return 0;
	case 'q':
		c->quiet = true;
		return 0;
	case 'h':
		print_and_end(help);
		return 0;
	case CLI_VERSION:
		print_and_end("gempipe " GP_VERSION "\n");
		return 0;
	default:
		return 1;
	}
}

int cli_failed(const struct cli *c)
{
	fprintf(stderr, "gempipe %s: %s\n", c->verb, gp_error());
	return 1;
}

int cli_misused(const struct cli *c, const char *fmt, ...)
{
	char text[GP_ERROR_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	fprintf(stderr, "gempipe %s: %s; see gempipe %s --help\n", c->verb, text, c->verb);
	return 2;
}

int cli_bad_option(const struct cli *c, char **argv)
{
	const char letter[] = { '-', (char)optopt, '\0' };

	/* A letter may stand in a bundle; getopt names it, but no long option. */
	return cli_misused(c, "'%s' is no option, or lacks its value",
			   optopt > ' ' && optopt < 127 ? letter : argv[optind - 1]);
}

int cli_flush_stdout(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	return gp_fail(errno ? errno : EIO, "stdout: %s", strerror(errno ? errno : EIO));
}

static int read_stream(FILE *f, const char *name, char **text, size_t *bytes)
{
	char *data = NULL;
	size_t n = 0, room = 0, got;

	do {
		if (room - n < 65536) {
			char *more = realloc(data, room = room * 2 + 65537);

			if (!more) {
				free(data);
				return gp_fail(ENOMEM, "%s: no memory to read it", name);
			}
			data = more;
		}
		got = fread(data + n, 1, room - n - 1, f);
		n += got;
	} while (got);
	if (ferror(f)) {
		const int e = errno;

		free(data);
		return gp_fail(e, "%s: not read: %s", name, strerror(e));
	}
	data[n] = '\0';
	*text = data;
	*bytes = n;
	return 0;
}

int cli_read_file(const char *path, char **text, size_t *bytes)
{
	FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");

	if (!f)
		return gp_fail(errno, "%s: %s", path, strerror(errno));
	const int rc = read_stream(f, path, text, bytes);
	if (f != stdin)
		fclose(f);
	return rc;
}

static int split_ids(const char *text, const char *name, uint32_t *ids, size_t *n)
{
	static const char blanks[] = " \t\r\n,[]";
	const char *p = text + strspn(text, blanks);

	for (*n = 0; *p; p += strspn(p, blanks)) {
		char word[24];
		const size_t len = strcspn(p, blanks);
		uint64_t v;

		if (len >= sizeof word)
			return gp_fail(EINVAL, "%s: '%.20s...' is no token id", name, p);
		memcpy(word, p, len);
		word[len] = '\0';
		if (gp_parse_u64(name, word, 0, UINT32_MAX, &v) < 0)
			return -EINVAL;
		ids[(*n)++] = (uint32_t)v;
		p += len;
	}
	return *n ? 0 : gp_fail(EINVAL, "%s: no token ids; give numbers such as 2,5,17", name);
}

int cli_parse_ids(const char *text, uint32_t **out, size_t *n)
{
	char *file = NULL;
	size_t bytes = strlen(text);
	int rc = 0;

	if (text[0] == '@' && (rc = cli_read_file(text + 1, &file, &bytes)) < 0)
		return rc;
	/* No id is shorter than one digit and a separator. */
	uint32_t *ids = calloc(bytes / 2 + 2, sizeof *ids);
	rc = ids ? split_ids(file ? file : text, file ? text + 1 : "--ids", ids, n)
		 : gp_fail(ENOMEM, "no memory for token ids");
	free(file);
	if (rc < 0)
		free(ids);
	else
		*out = ids;
	return rc;
}

static int parse_float(const char *name, const char *text, float max, float *out)
{
	char *end;

	errno = 0;
	*out = strtof(text, &end);
	if (end == text || *end || errno || !(*out >= 0 && *out <= max))
		return gp_fail(EINVAL, "--%s: '%s' is no number from 0 to %g", name, text, (double)max);
	return 0;
}

int cli_sampling_option(struct gp_sampling *s, const char *name, const char *value)
{
	uint64_t v = 0;
	int rc;

	if (strcmp(name, "seed") == 0)
		return gp_parse_u64("--seed", value, 0, UINT64_MAX, &s->seed);
	if (strcmp(name, "top-k") == 0) {
		rc = gp_parse_u64("--top-k", value, 0, UINT32_MAX, &v);
		s->top_k = (uint32_t)v;
		return rc;
	}
	if (strcmp(name, "temp") == 0)
		return parse_float(name, value, 100, &s->temperature);
	if (strcmp(name, "top-p") == 0)
		return parse_float(name, value, 1, &s->top_p);
	if (strcmp(name, "min-p") == 0)
		return parse_float(name, value, 1, &s->min_p);
	return parse_float(name, value, 100, &s->repeat_penalty);
}
