/* gempipe check: known products through a device, whose worker program does it. */
#include <string.h>

#include "tools/common/ask_devices.h"
#include "tools/common/cli.h"

static const char help[] =
	"Usage: gempipe check npu --verify [--npu sim]\n"
	"Runs known products through the NPU, of every kind that gempipe uses and of shapes that\n"
	"reach all its tiles, and holds the results against plain code. Prints a report; the exit\n"
	"status is 0 where all passed. Nobody has run these programs on every machine: please\n"
	"attach the report to an issue, whatever it says.\n\n"
	"      --verify           run them\n"
	"      --npu sim          on a simulated NPU; every line then says SIMULATED\n"
	"  -h, --help             this text;  --version: the version\n"
	"Example: gempipe check npu --verify\n";

static const struct option options[] = {
	{ "verify", no_argument, NULL, 'v' }, { "npu", required_argument, NULL, CLI_NPU },
	{ "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, CLI_VERSION }, { 0 },
};

int main(int argc, char **argv)
{
	bool verify = false;
	struct cli c;
	int o;

	cli_init(&c, "check");
	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&c, argv);
		if (o == 'v')
			verify = true;
		else
			cli_option(&c, o, help);
	}
	if (optind + 1 != argc || strcmp(argv[optind], "npu") != 0 || !verify)
		return cli_misused(&c, "say gempipe check npu --verify");
	become_report("npu", "--verify", c.plan.npu, false);
	return cli_failed(&c);
}
