#include "workers/workers.h"

int main(int argc, char **argv)
{
	return gp_worker_main(&gp_vulkan_device, argc, argv);
}
