#include <stdlib.h>

#include "base/base.h"
#include "model/internal.h"
#include "model/mapped_file.h"

/* Gemma's tokenizer.json has 33 MB; parsing takes a multiple of the size. */
enum { MAX_BYTES = 512 << 20 };

static int parse(json_t **root, const struct gp_mapped_file *f, size_t flags)
{
	json_error_t e;

	if (f->bytes > MAX_BYTES)
		return gp_fail(EFBIG, "%s: has %zu bytes, too many for its kind; fetch it again",
			       f->path, f->bytes);
	*root = json_loadb((const char *)f->data, f->bytes, flags | JSON_REJECT_DUPLICATES, &e);
	if (!*root)
		return gp_fail(EINVAL, "%s: is damaged: line %d: %.160s; fetch it again", f->path,
			       e.line, e.text);
	if (json_is_object(*root))
		return 0;
	json_decref(*root);
	*root = NULL;
	return gp_fail(EINVAL, "%s: is no JSON object; fetch it again", f->path);
}

int gp_json_read(json_t **root, const char *path, size_t flags)
{
	struct gp_mapped_file f;
	int rc = gp_mapped_file_open(&f, path);

	*root = NULL;
	if (rc < 0)
		return rc;
	rc = parse(root, &f, flags);
	gp_mapped_file_close(&f);
	return rc;
}

int gp_json_load(json_t **root, const char *folder, const char *name)
{
	char *path;
	int rc;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return gp_fail(ENOMEM, "%s: out of memory", folder);
	rc = gp_json_read(root, path, 0);
	free(path);
	return rc;
}
