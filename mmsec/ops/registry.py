"""Methods by name: how a config finds a grouping or a merging."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Method = TypeVar('Method', bound=type)


class Registry(dict[str, type]):
    """Classes by name, all of one kind; the part of MMEngine's registry that needs torch alone.

    Args:
        kind (str): What they are, as the option of a config is called: 'grouping' or 'merging'.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register_module(self) -> Callable[[Method], Method]:
        """Return a decorator that enters a class under its name."""

        def register(method: Method) -> Method:
            self[method.__name__] = method
            return method

        return register

    def build(self, config: Mapping[str, Any]) -> Any:
        """Make the method that a config names.

        Args:
            config (Mapping): ``type``, a name in this registry, and the options of that class.

        Returns:
            Any: An instance of that class.

        Raises:
            ValueError: If the type or an option is unknown or missing; one line says what there is. Or as the class.
        """
        names = ', '.join(sorted(self))
        if not isinstance(config, Mapping):
            raise ValueError(f'{self.kind} must be a dict with a type, one of {names}, got {config!r}')
        options = dict(config)
        name = options.pop('type', None)
        if not isinstance(name, str) or name not in self:
            raise ValueError(
                f'type of {self.kind} must be one of {names}, got {name!r}. A config has one of your own where its '
                'custom_imports name the file'
            )
        known = inspect.signature(self[name]).parameters
        takes = ', '.join(known) or 'no options'
        for option in options:
            if option not in known:
                raise ValueError(f'{self.kind} {name} has no option {option!r}; it takes {takes}')
        for option, parameter in known.items():
            if option not in options and parameter.default is parameter.empty:
                raise ValueError(f'{self.kind} {name} needs the option {option!r}; it takes {takes}')
        return self[name](**options)
