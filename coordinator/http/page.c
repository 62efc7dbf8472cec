/* The page at /: one file without anything from elsewhere, joined from page/ by the build. */
#include "coordinator/http/http.h"

static const unsigned char text[] = {
#include "coordinator/http/page.inc"
};

/* Only the page's own script and style run, whatever a model says or a user pastes; text
 * never becomes markup (trusted-types); it talks to nobody but this server. */
static const char policy[] =
	"default-src 'none'; script-src 'sha256-" PAGE_SCRIPT_SHA256 "'; "
	"style-src 'sha256-" PAGE_STYLE_SHA256 "'; img-src data:; connect-src 'self'; "
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
	"require-trusted-types-for 'script'; trusted-types 'none'";

struct MHD_Response *page_response(void)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(
		sizeof text, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);

	if (!r)
		return NULL;
	MHD_add_response_header(r, "Content-Type", "text/html; charset=utf-8");
	MHD_add_response_header(r, "Content-Security-Policy", policy);
	MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
	MHD_add_response_header(r, "Cross-Origin-Opener-Policy", "same-origin");
	MHD_add_response_header(r, "Cross-Origin-Resource-Policy", "same-origin");
	MHD_add_response_header(r, "Cache-Control", "no-cache");
	return r;
}
