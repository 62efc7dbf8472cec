#include "workers/workers.h"

int main(int argc, char **argv)
{
	return gp_worker_main(&gp_cpu_device, argc, argv);
}
