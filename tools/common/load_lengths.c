#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tools/common/cli.h"
#include "tools/common/load.h"

#define LONGEST (1u << 20)

/* 32 requests in a row of people's conversations with a model, 16 November 2023, 18:42:31 on:
 * AzureLLMInferenceTrace_conv of https://github.com/Azure/AzurePublicDataset (CC BY 4.0),
 * described in Patel et al., Splitwise, ISCA 2024. Lengths only; there is no text. */
static const struct load_length recorded[] = {
	{ 432, 99 }, { 2058, 101 }, { 983, 402 }, { 2022, 68 }, { 4085, 35 }, { 4141, 45 },
	{ 4079, 71 }, { 1062, 383 }, { 1085, 413 }, { 388, 77 }, { 4089, 38 }, { 215, 217 },
	{ 4086, 73 }, { 4116, 58 }, { 1244, 35 }, { 2731, 55 }, { 1022, 415 }, { 4100, 37 },
	{ 1154, 388 }, { 4078, 52 }, { 1060, 399 }, { 376, 44 }, { 392, 86 }, { 387, 75 },
	{ 4082, 108 }, { 398, 105 }, { 404, 88 }, { 4081, 482 }, { 386, 142 }, { 433, 107 },
	{ 389, 100 }, { 374, 7 },
};

static int add(struct load_lengths *l, uint64_t prompt, uint64_t output, uint32_t divide)
{
	struct load_length *more = realloc(l->of, (l->n + 1) * sizeof *more);

	if (!more)
		return gp_fail(ENOMEM, "no memory for lengths");
	l->of = more;
	prompt = prompt / divide ? prompt / divide : 1;
	output = output / divide ? output / divide : 1;
	if (!l->n || prompt < l->shortest_prompt)
		l->shortest_prompt = (uint32_t)prompt;
	l->of[l->n++] = (struct load_length){ (uint32_t)prompt, (uint32_t)output };
	l->longest = prompt + output > l->longest ? (uint32_t)(prompt + output) : l->longest;
	return 0;
}

/* Its last two words, apart by commas or blanks. */
static int add_line(struct load_lengths *l, char *line, const char *name, uint32_t divide)
{
	const char *words[2] = { NULL, NULL };
	char *save = NULL;
	uint64_t v[2] = { 0 };
	int rc = 0;

	for (char *w = strtok_r(line, ", \t\r\n:", &save); w; w = strtok_r(NULL, ", \t\r\n", &save)) {
		words[0] = words[1];
		words[1] = w;
	}
	if (!words[0])
		return gp_fail(EINVAL, "--lengths %s: '%s' is no pair of lengths; write PROMPT,OUTPUT", name,
			       line);
	for (int i = 0; i < 2 && rc == 0; i++)
		rc = gp_parse_u64("--lengths", words[i], 1, LONGEST, &v[i]);
	return rc < 0 ? rc : add(l, v[0], v[1], divide);
}

static int read_file(struct load_lengths *l, const char *path, uint32_t divide)
{
	char *text, *save = NULL;
	size_t bytes;
	int rc = cli_read_file(path, &text, &bytes);

	if (rc < 0)
		return rc;
	for (char *line = strtok_r(text, "\n", &save); line && rc == 0; line = strtok_r(NULL, "\n", &save))
		if (isdigit((unsigned char)*line))
			rc = add_line(l, line, path, divide);
	free(text);
	if (rc == 0 && !l->n)
		rc = gp_fail(EINVAL, "--lengths %s: no lengths in it; write PROMPT,OUTPUT a line", path);
	return rc;
}

static bool is_pair(const char *text)
{
	return strchr(text, ':') && text[strspn(text, "0123456789:")] == '\0';
}

int load_lengths_read(struct load_lengths *l, const char *what, uint32_t divide)
{
	char pair[64];
	int rc = 0;

	*l = (struct load_lengths){ 0 };
	for (size_t i = 0; i < GP_ARRAY_LEN(recorded) && !what && rc == 0; i++)
		rc = add(l, recorded[i].prompt, recorded[i].output, divide);
	if (what && is_pair(what)) {
		snprintf(pair, sizeof pair, "%s", what);
		rc = add_line(l, pair, what, divide);
	} else if (what) {
		rc = read_file(l, what, divide);
	}
	return rc;
}

void load_lengths_free(struct load_lengths *l)
{
	free(l->of);
	*l = (struct load_lengths){ 0 };
}
