# Each target is one or two commands that can be typed as well; `make` lists them.
.PHONY: help check test slow docs

help:
	@echo "make check   ruff, ruff format and mypy"
	@echo "make test    the default tests, doctests included"
	@echo "make slow    the slow tests that need no GPU"
	@echo "make docs    the generated pages: docs/GALLERY.md and docs/USER_NEEDS.md"

check:
	ruff check .
	ruff format --check .
	bash .ci/typecheck

test:
	pytest -n auto

slow:
	pytest -m "slow and not gpu and not soak"

docs:
	python docs/gallery.py
	python docs/user_needs.py
