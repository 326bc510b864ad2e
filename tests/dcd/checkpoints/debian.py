"""Elements of manifests with Debian packages."""

SUITE = '<repository suite="test"/>'


def software(
    data: str = "", repository: str = "", image: str = 'variant="custom"', name: str = "t"
) -> str:
    source = f"<source>{repository}</source>" if repository else ""
    return (
        f'<software name="{name}" type="DEB"><destination><image {image}/></destination>{source}\n'
        f"{data}</software>"
    )


def install(*names: str) -> str:
    return f"<software_data>{''.join(f'<name>{name}</name>' for name in names)}</software_data>"
