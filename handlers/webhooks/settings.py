"""What an operator can set about webhooks. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

import base64
import binascii

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from daemon.family import Seconds
from handlers.integrations.modules import Modules

PREFIX = "whsec_"
#: What Standard Webhooks asks of a secret, bytes.
SHORTEST, LONGEST = 24, 64


def checked_secret(text: str) -> str:
    """Give a secret for signing back.

    Raises:
        ValueError: when it is none, never quoting it.
    """
    try:
        size = len(base64.b64decode(text.removeprefix(PREFIX), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not text.startswith(PREFIX) or not SHORTEST <= size <= LONGEST:
        raise ValueError(f"a secret is whsec_ and base64 of {SHORTEST} to {LONGEST} random bytes")
    return text


class WebhooksSettings(BaseModel):
    """Webhooks: secrets, when an endpoint is given up, how long deliveries are remembered."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secrets: dict[str, SecretStr] = Field(
        {},
        description="secrets that sign, by the name jobs call them: `ARQD_WEBHOOKS__SECRETS__SHOP=whsec_…`; "
        "a second one behind a blank signs as well, for a rotation",
    )
    stripe_secrets: SecretStr | None = Field(
        None,
        description="signing secret of the Stripe endpoint, `whsec_…`, several behind blanks; set: an event needs a "
        "signature",
    )
    stripe_handlers: Modules = Field(
        (), description="modules with handlers of Stripe events (docs/families/webhooks.md), e.g. `shop.stripe_events`"
    )
    disable_after: Seconds = Field(
        5 * 86_400, gt=0, description="an endpoint that has only failed for so long is disabled, seconds or `5d`"
    )
    keep_deliveries: Seconds = Field(
        30 * 86_400, gt=0, description="how long the delivery log is kept, seconds or `30d`"
    )

    @field_validator("secrets")
    @classmethod
    def _usable(cls, secrets: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in secrets.items():
            if not value.get_secret_value().split():
                raise ValueError(f"the secret {name} is empty")
            for secret in value.get_secret_value().split():
                checked_secret(secret)
        return {name.lower(): value for name, value in secrets.items()}

    def secrets_of(self, name: str) -> list[str] | None:
        """Give the secrets jobs call ``name`` (in any case), the first one first; None when there are none."""
        found = self.secrets.get(name.lower())
        return None if found is None else found.get_secret_value().split()
