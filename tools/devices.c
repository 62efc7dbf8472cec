/* gempipe devices: what stages can run on. Each worker program tells of its own kind,
 * so that this one needs no driver. */
#include <string.h>

#include "tools/common/ask_devices.h"
#include "tools/common/cli.h"

static const char help[] =
	"Usage: gempipe devices [--json]\n"
	"Lists what the stages of a pipeline can run on here: the CPU with its instruction\n"
	"sets, every Vulkan device with its memory and features, and the NPU. The names are\n"
	"those of --stages and --device-memory.\n\n"
	"      --json             results as JSON\n"
	"  -v, --verbose          let the drivers' own messages through\n"
	"  -h, --help             this text;  --version: the version\n"
	"Examples:\n"
	"  gempipe devices\n"
	"  gempipe run -m MODEL -p Hello --stages cpu:0-20,vulkan[1]:21-61\n";

static const struct option options[] = {
	{ "json", no_argument, NULL, CLI_JSON }, { "verbose", no_argument, NULL, 'v' },
	{ "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, CLI_VERSION }, { 0 },
};

/* ---- showing -------------------------------------------------------------------- */
static const char *text_of(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "?";
}

static uint64_t number_of(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static void print_list(const char *title, const json_t *list)
{
	json_t *v;
	size_t i;

	if (!json_array_size(list))
		return;
	printf("  %s: ", title);
	json_array_foreach(list, i, v)
		printf("%s%s", i ? ", " : "", json_string_value(v));
	putchar('\n');
}

static void print_cpu(const json_t *d)
{
	const json_t *limit = json_object_get(d, "gp_cpu");

	printf("cpu: %s, %llu cores\n", text_of(d, "name"),
	       (unsigned long long)number_of(d, "cores"));
	print_list("instruction sets", json_object_get(d, "instruction_sets"));
	printf("  used: %s", text_of(d, "uses"));
	if (json_is_string(limit))
		printf(" (GP_CPU=%s allows no more)\n", json_string_value(limit));
	else
		printf(" (GP_CPU or --cpu-mask can limit it)\n");
}

static void print_heaps(const json_t *heaps)
{
	char size[32], budget[32];
	json_t *h;
	size_t i;

	json_array_foreach(heaps, i, h) {
		printf("  heap %zu: %s %s%s", i, gp_size_text(size, number_of(h, "bytes")),
		       json_is_true(json_object_get(h, "device_local")) ? "of the device" :
		                                                          "of the host",
		       json_is_true(json_object_get(h, "host_visible")) ? ", seen by the host" : "");
		if (json_object_get(h, "budget_bytes"))
			printf(", budget %s", gp_size_text(budget, number_of(h, "budget_bytes")));
		putchar('\n');
	}
}

static void print_vulkan(const json_t *d)
{
	const uint64_t least = number_of(d, "min_subgroup_size");
	const uint64_t most = number_of(d, "max_subgroup_size");
	char one[32], range[32];

	printf("%s: %s, %s%s\n", text_of(d, "device"), text_of(d, "name"), text_of(d, "type"),
	       json_is_true(json_object_get(d, "usable")) ? "" : " (cannot be used: see missing)");
	printf("  driver: %s; Vulkan %s\n", text_of(d, "driver"), text_of(d, "api_version"));
	print_heaps(json_object_get(d, "heaps"));
	printf("  subgroups of %llu", (unsigned long long)number_of(d, "subgroup_size"));
	if (least != most)
		printf(" (%llu to %llu)", (unsigned long long)least, (unsigned long long)most);
	printf("; allocations up to %s, storage buffers up to %s\n",
	       gp_size_text(one, number_of(d, "max_allocation_bytes")),
	       gp_size_text(range, number_of(d, "max_storage_buffer_bytes")));
	print_list("has", json_object_get(d, "features"));
	print_list("missing", json_object_get(d, "missing"));
}

static void print_npu(const json_t *d)
{
	printf("npu: %s, %llu x %llu tiles\n  driver: %s\n", text_of(d, "name"),
	       (unsigned long long)number_of(d, "columns"),
	       (unsigned long long)number_of(d, "rows"), text_of(d, "driver"));
}

static void print_kind(const json_t *kind)
{
	json_t *d;
	size_t i;

	if (json_object_get(kind, "problem"))
		printf("%s: none: %s\n", text_of(kind, "kind"), text_of(kind, "problem"));
	json_array_foreach(json_object_get(kind, "devices"), i, d) {
		if (strcmp(text_of(kind, "kind"), "cpu") == 0)
			print_cpu(d);
		else if (strcmp(text_of(kind, "kind"), "npu") == 0)
			print_npu(d);
		else
			print_vulkan(d);
	}
}

/* ---- the program ---------------------------------------------------------------- */
static int parse(struct cli *c, int argc, char **argv)
{
	int o;

	while ((o = getopt_long(argc, argv, "vh", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(c, argv);
		cli_option(c, o, help);
	}
	if (optind < argc)
		return cli_misused(c, "'%s' is one word too many", argv[optind]);
	return 0;
}

int main(int argc, char **argv)
{
	struct cli c;
	json_t *kind;
	size_t i;
	int status;

	cli_init(&c, "devices");
	if ((status = parse(&c, argc, argv)) != 0)
		return status;
	json_t *all = ask_devices(c.verbose);
	if (c.json)
		json_dumpf(all, stdout, JSON_INDENT(2));
	else
		json_array_foreach(all, i, kind)
			print_kind(kind);
	if (c.json)
		putchar('\n');
	json_decref(all);
	return cli_flush_stdout() < 0 ? cli_failed(&c) : 0;
}
