#include "tools/common/terminal_out.h"

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base.h"

struct terminal_out {
	FILE *to;
	bool after_c2;          /* C1 controls are C2 80 to C2 9F; the C2 is held back */
};

static void put(struct terminal_out *t, unsigned char c)
{
	static const char replacement[] = "\xef\xbf\xbd";
	const bool after_c2 = t->after_c2, c1 = after_c2 && c >= 0x80 && c < 0xa0;

	t->after_c2 = c == 0xc2;
	if (after_c2 && !c1)
		putc(0xc2, t->to);
	if (t->after_c2)
		return;
	if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || c1)
		fputs(replacement, t->to);
	else
		putc(c, t->to);
}

static ssize_t write_text(void *cookie, const char *data, size_t bytes)
{
	struct terminal_out *t = cookie;

	for (size_t i = 0; i < bytes; i++)
		put(t, (unsigned char)data[i]);
	return fflush(t->to) == 0 ? (ssize_t)bytes : 0; /* fopencookie's failure */
}

static int end(void *cookie)
{
	free(cookie);
	return 0;
}

FILE *terminal_out_open(FILE *to)
{
	const cookie_io_functions_t functions = { .write = write_text, .close = end };
	struct terminal_out *t = calloc(1, sizeof *t);
	FILE *f = t ? fopencookie(t, "w", functions) : NULL;

	if (f)
		t->to = to;
	else
		free(t);
	return f;
}
