package org.mnv3.demo

import android.content.Context
import java.io.FileInputStream
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel
import org.mnv3.demo.core.BundleContract
import org.mnv3.demo.core.Golden

/** The bundle in assets/bundle: everything that the app knows about the model. */
class BundleAssets(private val context: Context) {
    val contract: BundleContract = BundleContract.parse(text("preprocessing.json"))
    val labels: List<String> = BundleContract.labels(text("labels.txt"), contract)

    val goldens: List<Golden> get() = Golden.parse(text("goldens.json"))

    fun bytes(name: String): ByteArray = context.assets.open("$FOLDER/$name").use { it.readBytes() }

    fun model(): MappedByteBuffer = context.assets.openFd(MODEL).use { file ->
        FileInputStream(file.fileDescriptor).channel.use {
            it.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
        }
    }

    private fun text(name: String): String = bytes(name).decodeToString()

    companion object {
        private const val FOLDER = "bundle"
        const val MODEL = "$FOLDER/model.tflite"
    }
}
