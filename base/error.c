#include "base/base.h"

#include <string.h>

static _Thread_local char message[GP_ERROR_BYTES];

/* Newlines in names from outside would break "one line". */
static void keep_one_line(void)
{
	for (char *p = message; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
}

int gp_fail(int errnum, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	keep_one_line();
	return errnum > 0 ? -errnum : -EIO;
}

int gp_fail_in(int rc, const char *fmt, ...)
{
	char inner[GP_ERROR_BYTES], outer[GP_ERROR_BYTES];
	va_list ap;

	memcpy(inner, message, sizeof inner);
	va_start(ap, fmt);
	vsnprintf(outer, sizeof outer, fmt, ap);
	va_end(ap);
	snprintf(message, sizeof message, "%.200s: %.300s", outer, inner);
	keep_one_line();
	return rc;
}

const char *gp_error(void)
{
	return message[0] ? message : "no error";
}
