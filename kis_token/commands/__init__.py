"""The commands of ``kis-token``, on the library click. Only ``cli`` starts them; the action knows nothing of them."""
