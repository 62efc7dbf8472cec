#include "workers/workers.h"

int main(int argc, char **argv)
{
	return gp_worker_main(&gp_npu_device, argc, argv);
}
