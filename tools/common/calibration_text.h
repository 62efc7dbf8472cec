/* tools/common: a text to calibrate on, and the CPU to do it with. */
#ifndef GP_CALIBRATION_TEXT_H
#define GP_CALIBRATION_TEXT_H

#include "quantize/quantize.h"
#include "tools/common/score.h"

struct calibration_text {
	struct score_text text;        /* its skip is not used */
	uint32_t threads;              /* 0: one a core */
	struct gp_walk walk;           /* since opening */
};
#define CALIBRATION_TEXT_DEFAULTS { .text.ctx = 512 }
/* Reads and cuts the text, opens the CPU as a device. */
int calibration_text_open(struct calibration_text *t, struct gp_model *m);
void calibration_text_close(struct calibration_text *t);
/* As wanted, or one a core. */
uint32_t calibration_threads(uint32_t wanted);

#endif
